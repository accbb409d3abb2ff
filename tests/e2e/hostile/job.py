"""Jobs of configuration only, as whoever holds a submitter's certificate may write them: the submitter's command, script or file in it."""

from __future__ import annotations

import json
from typing import Any

CLIENT_API = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"
OURS = "multisite.job.executor.TrainingExecutor"
MARK = "/workspace/owned"  # what a job's own code would leave
CODE = f"open('{MARK}', 'w').write('x')"
NUMBERS = {"partition": "iid-seed0", "network": "light", "rounds": 1, "local_epochs": 1, "batch_size": 64, "lr": 0.1, "seed": 0}
TIMEIT = {
    "task_script_path": "/usr/lib/python3.11/timeit.py",
    "task_script_args": f"-n 1 -r 1 exec(bytes.fromhex('{CODE.encode().hex()}'))",
}
EXTERNAL = {"execution_mode": "external_process", "command": ["python3", "-c", CODE], "params_exchange_format": "numpy"}

EXECUTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "a command": (CLIENT_API, EXTERNAL),
    "a script of the image": (CLIENT_API, {"execution_mode": "in_process", **TIMEIT}),
    "a command for our executor": (OURS, {**NUMBERS, **EXTERNAL}),
    "a script for our executor": (OURS, {**NUMBERS, **TIMEIT}),
    "arguments in an argument": (OURS, {**NUMBERS, "partition": "iid-seed0 --seed 1"}),
    "a path in an argument": (OURS, {**NUMBERS, "partition": "../../kit"}),
}


def files(name: str, executor: tuple[str, dict[str, Any]], server_component: dict[str, Any] | None = None) -> dict[str, str]:
    """A job folder: path -> content."""
    path, arguments = executor
    controller = {"num_clients": 1, "num_rounds": 1, "network": "light"}
    components = [{"id": "persistor", "path": "multisite.job.persistor.SafetensorsPersistor", "args": {}}]
    server = {
        "format_version": 2,
        "workflows": [{"id": "controller", "path": "multisite.job.controller.EvaluatedFedAvg", "args": controller}],
        "components": [*components, *([server_component] if server_component else [])],
    }
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": {"path": path, "args": arguments}}], "components": []}
    meta = {"name": name, "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}
    return {
        "meta.json": json.dumps(meta),
        "app/config/config_fed_server.json": json.dumps(server),
        "app/config/config_fed_client.json": json.dumps(client),
    }
