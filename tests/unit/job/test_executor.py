"""What a job without code may have a site run: the image's own script with numbers, and nothing that its configuration names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.utils.component_builder import ComponentBuilder

from multisite.cifar10.manifest import SHAPES
from multisite.job.components import OUR_COMPONENTS
from multisite.job.executor import CLIENT_SCRIPT, TrainingExecutor
from multisite.job.options import NETWORKS

GOOD: dict[str, Any] = {
    "partition": "dirichlet0.5-seed0", "network": "light", "rounds": 3, "local_epochs": 1, "batch_size": 64, "lr": 0.1, "seed": 0,
}  # fmt: skip
CLIENT_API = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"


def authorize(folder: Path, path: str) -> None:
    """NVFlare's own check of a component's class against a site's list, as provisioning writes it.

    Raises:
        UnsafeComponentError: it is not on the list.
    """
    resources = folder / "resources.json"
    resources.write_text(
        json.dumps({"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, *OUR_COMPONENTS]}), encoding="utf-8"
    )
    workspace = SimpleNamespace(get_resources_file_path=lambda: str(resources))
    ComponentPathAuthorizer().authorize_component_config({"path": path, "args": {}}, workspace=workspace)


@pytest.mark.parametrize(
    "path",
    [
        CLIENT_API,
        "subprocess.Popen",
        "os.system",
        "nvflare.app_common.executors.task_script_runner.TaskScriptRunner",
        "nvflare.app_common.executors.multi_process_executor.MultiProcessExecutor",
        "multisite.node.job_process.SiteJobLauncher",
        "multisite.node.main.Node",
        "multisite.tracking.writer.JobWriter",
    ],
)
def test_what_runs_a_command_or_a_script_that_a_job_names_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeComponentError, match="not in allow_list"):
        authorize(tmp_path, path)


@pytest.mark.parametrize("path", OUR_COMPONENTS)
def test_the_shipped_jobs_components_are_allowed_by_their_whole_name(path: str, tmp_path: Path) -> None:
    authorize(tmp_path, path)
    with pytest.raises(UnsafeComponentError, match="not in allow_list"):
        authorize(tmp_path, path.rpartition(".")[0] + ".os.system")


def test_nvflares_own_list_stays_whole() -> None:
    assert CLIENT_API not in DEFAULT_CLASS_ALLOW_LIST
    assert not set(DEFAULT_CLASS_ALLOW_LIST) & set(OUR_COMPONENTS)


@pytest.mark.parametrize(
    "more",
    [
        {"execution_mode": "external_process", "command": ["id"]},
        {"command": ["id"]},
        {"task_script_path": "/usr/lib/python3.11/timeit.py"},
        {"task_script_args": "-n 1"},
        {"attach_id": "x"},
    ],
)
def test_a_job_can_not_choose_script_mode_or_command(more: dict[str, Any]) -> None:
    class Builder(ComponentBuilder):
        def get_module_scanner(self) -> None:
            return None

    config = {"path": f"{TrainingExecutor.__module__}.{TrainingExecutor.__name__}", "args": {**GOOD, **more}}
    with pytest.raises(Exception, match=next(iter(more))):
        Builder().build_component(config)
    assert isinstance(Builder().build_component({**config, "args": GOOD}), TrainingExecutor)


def test_the_script_is_the_images_own_and_runs_in_the_job_process() -> None:
    executor = TrainingExecutor(**GOOD)
    assert executor.execution_mode == "in_process"
    assert CLIENT_SCRIPT.name == "client.py"
    assert set(NETWORKS) == set(SHAPES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partition", "../../startup"),
        ("partition", "/data"),
        ("partition", "iid --lr 5"),
        ("partition", ""),
        ("partition", "x" * 65),
        ("partition", 7),
        ("network", "light --seed 9"),
        ("network", "os.system"),
        ("network", ["light"]),
        ("rounds", "3 --network moderate"),
        ("rounds", 0),
        ("rounds", True),
        ("rounds", 10**9),
        ("batch_size", 1.5),
        ("seed", -1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", "0.1 --seed 7"),
    ],
)
def test_an_argument_that_is_more_than_a_number_or_a_name_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        TrainingExecutor(**{**GOOD, name: value})
