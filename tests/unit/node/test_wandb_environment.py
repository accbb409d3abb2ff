"""The empty WANDB_* variables that Compose gives to a container, and the W&B client of a job's own script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

COMPOSE = Path(__file__).parents[3] / "docker" / "base.yaml"
# What `wandb.login` and `wandb.init` begin with. The login itself would look for a backend, and W&B's exit then waits for that.
LOGIN = """
import wandb
print(wandb.setup().settings.base_url.startswith("https://"))
"""
# The node has no kit here: its start ends with status 2, and its environment is what its processes would inherit.
NODE = """
from pathlib import Path
from multisite.node import main
main.KIT, main.READY = Path("absent"), Path("ready")
assert main.main() == 2
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program with the variables that an untouched `.env` leaves empty in a participant's container."""
    passed = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["participant"]["environment"]
    empty = {name: "" for name, value in passed.items() if name.startswith("WANDB_") and value.endswith(":-}")}
    assert {"WANDB_BASE_URL", "WANDB_MODE", "WANDB_TAGS"} <= set(empty)
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {**others, **empty, "HOME": str(folder), "NETRC": str(folder / "netrc")}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_in_a_nodes_processes_what_compose_leaves_empty_stops_no_login_of_a_user(tmp_path: Path) -> None:
    done = run(NODE + LOGIN, tmp_path)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["True"]), done.stderr


def test_without_the_nodes_cleaning_it_would_fail(tmp_path: Path) -> None:
    """What the cleaning is for. Once W&B's client takes empty variables for none, it can go."""
    done = run(LOGIN, tmp_path)
    assert done.returncode == 1
    assert "ValidationError" in done.stderr


def test_a_variable_that_is_set_stays(tmp_path: Path) -> None:
    done = run(
        'import os; os.environ["WANDB_ENTITY"] = "hospital"' + NODE + "print(sorted(n for n in os.environ if 'WANDB' in n))",
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "['WANDB_ENTITY']\n"), done.stderr
