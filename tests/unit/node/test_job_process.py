"""A job's process is NVFlare's own, with NVFlare's arguments."""

from __future__ import annotations

import importlib

import pytest

from multisite.node import job_launcher, job_process


def test_nvflares_command_starts_this_packages_process_with_nvflares_arguments() -> None:
    command = "python -m nvflare.private.fed.app.client.worker_process -m /workspace -n job"
    assert job_launcher.as_ours(command, "site") == "python -m multisite.node.job_process site -m /workspace -n job"


def test_a_command_with_another_module_than_the_known_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"has no -m nvflare.private.fed.app.server.runner_process: python -m nvflare.other"):
        job_launcher.as_ours("python -m nvflare.other -m /workspace", "server")


@pytest.mark.parametrize("role", job_process.MODULES)
def test_nvflares_own_launchers_start_the_known_modules(role: str) -> None:
    """Guards the pin: their command names the module that `job_process` runs, and it has the functions that are called."""
    process = importlib.import_module(job_process.MODULES[role])
    assert callable(process.main)
    assert callable(process.parse_arguments)
