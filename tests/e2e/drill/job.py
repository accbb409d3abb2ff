"""A third-party job that logs metrics: its folder, its submission, and what must arrive."""

from __future__ import annotations

import io
import json
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.drill.script import expected
from tests.e2e.stack import Stack
from tests.wandb_backend.client import BackendState, rows

WANDB = {"project": "drill", "name": "drill"}
SUBMIT = """
import sys, contextlib
from multisite.admin import service
with contextlib.redirect_stdout(sys.stderr), service.session() as flare:
    print(flare.submit_job("/tmp/drill"), file=sys.__stdout__)
"""


@dataclass(frozen=True)
class Drill:
    """What the job does."""

    rounds: int = 3
    values: int = 300
    seconds: float = 4.0
    sites: int = 2
    pattern: str = ""
    clients: bool = False
    wait_seconds: float = 20.0
    late: str = ""
    receiver: str = "multisite"

    def files(self) -> dict[str, str]:
        """The job folder: what a third party writes to use the tracking, and a script of its own in `custom/`."""
        script_args = f"--values {self.values} --seconds {self.seconds} --pattern={self.pattern} --late={self.late}"
        executor = {
            "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
            "args": {"execution_mode": "in_process", "task_script_path": "script.py", "task_script_args": script_args,
                     "params_exchange_format": "numpy"},
        }  # fmt: skip
        recorder: dict[str, Any] = {"forward": not self.clients}
        if self.clients:
            recorder["wandb_args"] = WANDB
        receiver: dict[str, Any] = {"wait_seconds": self.wait_seconds}
        if not self.clients:
            receiver["wandb_args"] = WANDB
        controller = {"num_clients": self.sites, "num_rounds": self.rounds}
        client_components = [{"id": "recorder", "path": "multisite.tracking.recorder.MetricsRecorder", "args": recorder}]
        server_components = [{"id": "receiver", "path": "multisite.tracking.receiver.WandbReceiver", "args": receiver}]
        if self.receiver == "stock":
            client_components = [
                {"id": "event_to_fed", "path": "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
                 "args": {"events_to_convert": ["analytix_log_stats"]}}
            ]  # fmt: skip
            server_components = [
                {"id": "receiver", "path": "nvflare.app_opt.tracking.wandb.wandb_receiver.WandBReceiver",
                 "args": {"mode": "online", "wandb_args": {**WANDB, "job_type": "stock", "group": "stock"}}}
            ]  # fmt: skip
        server = {
            "format_version": 2,
            "workflows": [{"id": "controller", "path": "multisite.job.controller.EvaluatedFedAvg", "args": controller}],
            "components": [
                {"id": "model_selector", "path": "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector",
                 "args": {"key_metric": "accuracy"}},
                {"id": "persistor", "path": "multisite.job.persistor.SafetensorsPersistor", "args": {}},
                *server_components,
            ],
            # Each request leaves NVFlare a thread for 60 s (`byte_receiver.COMPLETED_TASK_TTL`): with 0.05 s a site that waits for
            # another one comes to its container's limit of 512, and its job hangs.
            "server": {"task_request_interval": 0.2},
        }  # fmt: skip
        client = {
            "format_version": 2,
            "executors": [{"tasks": ["*"], "executor": executor}],
            "components": client_components,
            "np_download_chunk_size": 0,  # EvaluatedFedAvg fetches nothing that a result refers to
        }
        # The server lets no code of a job in, whatever a site allows: it gets a part without any.
        meta = {
            "name": "drill",
            "resource_spec": {},
            "min_clients": self.sites,
            "deploy_map": {"server": ["server"], "site": self.site_names()},
        }
        return {
            "meta.json": json.dumps(meta),
            "server/config/config_fed_server.json": json.dumps(server),
            "site/config/config_fed_client.json": json.dumps(client),
            "site/custom/script.py": Path(__file__).with_name("script.py").read_text(encoding="utf-8"),
        }

    def submit(self, stack: Stack) -> str:
        """Submits it and returns its id."""
        return submit_files(stack, self.files())

    def wait(self, stack: Stack, job_id: str, seconds: float = 180.0) -> str:
        """The job's last status."""
        status = ""

        def ended() -> bool:
            nonlocal status
            status = status_of(stack, job_id)
            return status.startswith("FINISHED")

        stack.wait_for(ended, f"the end of job {job_id}", seconds)
        return status

    def run(self, stack: Stack, seconds: float = 180.0) -> str:
        """Submits it, waits for its end, and returns its id."""
        job_id = self.submit(stack)
        status = self.wait(stack, job_id, seconds)
        assert status == "FINISHED:COMPLETED", status
        return job_id

    def site_names(self) -> list[str]:
        """Who logs."""
        return [f"site-{number}" for number in range(1, self.sites + 1)]

    def check(self, state: BackendState, job_id: str) -> None:
        """Every value of every site, exactly once, in order, with its own step."""
        for site in self.site_names():
            assert arrived(state, job_id, site) == expected(self.rounds, self.values, self.pattern), site


def submit_files(stack: Stack, files: dict[str, str]) -> str:
    """Submits a job folder (path -> content) with the admin's session, and returns the job's id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"drill/{name}")
            info.size, info.mode, info.mtime = len(text.encode()), 0o644, time.time()
            archive.addfile(info, io.BytesIO(text.encode()))
    packed = stack.home / "drill.tar"
    packed.write_bytes(buffer.getvalue())
    unpack = stack.run("sh", "-c", "docker compose exec -T admin sh -c 'rm -rf /tmp/drill; tar -x -C /tmp' < drill.tar")
    assert unpack.code == 0, unpack.text
    done = stack.execute("admin", "python", "-c", SUBMIT)
    assert done.code == 0, done.text
    return done.text.strip().splitlines()[-1].split()[-1]


def status_of(stack: Stack, job_id: str) -> str:
    """What NVFlare says of a job; empty while the server does not answer."""
    for line in stack.execute("admin", "python", "-m", "multisite.admin.command_line", "jobs").text.splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        for job in event.get("jobs", []):
            if job["job_id"] == job_id:
                return str(job["status"])
    return ""


def arrived(state: BackendState, job_id: str, site: str) -> list[tuple[int, int | None]]:
    """(identity, step) of what the backend has of a site."""
    runs = [run for run in state.runs() if job_id in str(run["group"]) and str(run["display_name"]).startswith(f"{site}-")]
    return [(row["id"], row.get("step")) for run in runs for row in rows(run) if "id" in row]


def spool(stack: Stack, service: str, job_id: str) -> dict[str, Any]:
    """A container's report of one job; empty if it knows none."""
    done = stack.execute(service, "python", "-m", "multisite.tracking.sync", "--status")
    jobs = json.loads(done.text.strip().splitlines()[-1])["jobs"]
    return next((job for job in jobs if job["job_id"] == job_id), {})


def logged(stack: Stack, service: str, job_id: str, site: str) -> int:
    """Records of a site that a container has on its disk."""
    return int(spool(stack, service, job_id).get("sites", {}).get(site, {}).get("logged", 0))
