"""Simulations that a person starts without this project's script: NVFlare gives every one of them the same job id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.drill.job import Drill
from tests.wandb_backend.client import BackendState
from tests.wandb_backend.keys import KnownKeys
from tests.wandb_backend.server import WandbBackend

KEY = "simulation" * 4
TIMEOUT = 200
SIMULATE = """
from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner
for number in (1, 2):
    assert SimulatorRunner(job_folder="job", workspace="ws", n_clients=2, threads=2).run() == 0
"""


def test_two_simulations_of_one_process_and_one_workspace_are_two_jobs(tmp_path: Path) -> None:
    drill = Drill(rounds=2, values=20, seconds=0.5)
    for name, content in drill.files().items():
        path = tmp_path / "job" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    backend = WandbBackend(("127.0.0.1", 0), KnownKeys({KEY: "hospital"}))
    backend.start()
    try:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MULTISITE_"))}
        environment |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": backend.url, "MULTISITE_SPOOL": str(tmp_path / "spool")}
        subprocess.run([sys.executable, "-c", SIMULATE], cwd=tmp_path, env=environment, timeout=TIMEOUT, check=True)
        state = BackendState.fetch(backend.url)
    finally:
        backend.stop()
    jobs = {run["config"]["job"]["value"] for run in state.runs()}
    assert len(jobs) == 2
    for job in jobs:
        drill.check(state, job)
