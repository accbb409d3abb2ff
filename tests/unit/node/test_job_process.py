"""A job's process is NVFlare's own, with NVFlare's arguments."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.private.fed.client.client_executor import JobExecutor
from nvflare.private.fed.server.server_engine import ServerEngine

from multisite.node import job_launcher, job_process


def test_nvflares_command_starts_this_packages_process_with_nvflares_arguments() -> None:
    command = "python -m nvflare.private.fed.app.client.worker_process -m /workspace -n job"
    assert job_launcher.as_ours(command, "site") == "python -m multisite.node.job_process site -m /workspace -n job"


def test_a_command_with_another_module_than_the_known_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"has no -m nvflare.private.fed.app.server.runner_process: python -m nvflare.other"):
        job_launcher.as_ours("python -m nvflare.other -m /workspace", "server")


@pytest.mark.parametrize(
    ("role", "launcher", "starter"),
    [
        ("site", job_launcher.SiteJobLauncher, JobExecutor.start_app),
        ("server", job_launcher.ServerJobLauncher, ServerEngine._start_runner_process),
    ],
)
def test_nvflares_own_launchers_start_the_known_modules(role: str, launcher: type[Any], starter: Callable[..., Any]) -> None:
    """Guards the pin: NVFlare starts the module that `job_process` runs, and it has the functions that are called."""
    module = job_process.MODULES[role]
    assert f'JobProcessArgs.EXE_MODULE: ("-m", "{module}")' in inspect.getsource(starter)
    arguments = {JobProcessArgs.EXE_MODULE: ("-m", module), JobProcessArgs.JOB_ID: ("-n", "job-1")}
    fl_ctx = FLContext()
    fl_ctx.set_prop(FLContextKey.JOB_PROCESS_ARGS, arguments, private=True, sticky=False)
    assert launcher().get_command({}, fl_ctx) == f"{sys.executable} -m multisite.node.job_process {role} -n job-1"
    process = importlib.import_module(module)
    assert not inspect.signature(process.parse_arguments).parameters
    assert list(inspect.signature(process.main).parameters) == ["args"]
