"""The verbs' program, as the Makefile calls it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import multisite.console
from multisite.console import __main__ as main
from multisite.console import metrics
from multisite.console.deployment import Deployment
from multisite.console.docker import Docker, Result
from multisite.console.settings import ConsoleError, Settings

HOST_MODULES = sorted(module.name for module in pkgutil.iter_modules(multisite.console.__path__))


@pytest.mark.parametrize("name", HOST_MODULES)
def test_what_runs_on_the_host_imports_with_this_python_and_nothing_installed(name: str) -> None:
    assert importlib.import_module(f"multisite.console.{name}")
    command = [sys.executable, "-S", "-c", f"import multisite.console.{name}"]  # without site-packages
    source = str(Path(multisite.console.__path__[0]).parents[1])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_older_python_is_refused_with_the_one_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(SystemExit, match=r"Python 3\.9 or later is needed(.|\n)*next: "):
        importlib.reload(multisite.console)


def calls(name: str) -> set[str]:
    """The functions that a module of the console calls, as they are written there."""
    source = Path(multisite.console.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("name", sorted({*HOST_MODULES} - {"text"}))
def test_what_is_printed_or_read_of_a_container_goes_through_the_one_place_that_cleans_it(name: str) -> None:
    assert calls(name) & {"print", "input", "sys.stdout.write", "sys.stderr.write", "sys.exit", "json.loads"} <= (
        {"json.loads"}
        if name == "docker"
        else {"sys.exit"}
        if name == "__main__"
        else set()  # the engine's own answer; an exit status
    )


def test_an_unknown_verb_is_named_with_the_ones_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["console", "upp"])
    assert main.main() == 2
    assert "unknown verb 'upp'\n  next: one of up, submit" in capsys.readouterr().err


def test_a_bad_job_option_is_exit_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["console", "submit"])
    monkeypatch.setenv("ROUNDS", "many")
    assert main.main() == 2
    assert "options: ROUNDS=many is not a number" in capsys.readouterr().err


def test_a_failed_step_is_exit_status_1_and_its_message_reaches_the_terminal_without_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise ConsoleError("data", "\x1b[2Jbroken\x07", "mend it")

    monkeypatch.setattr(sys, "argv", ["console", "up"])
    monkeypatch.setitem(main.VERBS, "up", fail)
    assert main.main() == 1
    assert capsys.readouterr().err == "data: broken\n  next: mend it\n"


def test_the_account_of_a_site_is_shown_without_its_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = dict.fromkeys(("logged", "received", "delivered", "pending", "set_aside"), 1)
    job = {"job_id": "7", "state": "off\x1b[2Jline", "reason": "", "problems": [], "sites": {"site-1\njob 1234 completed": account}}
    answer = {"jobs": [job], "refusals": {}}
    monkeypatch.setattr(Docker, "running", lambda *_: True)
    monkeypatch.setattr(Docker, "exec", lambda *_, **__: Result(0, json.dumps(answer) + "\n", ""))
    lines = "\n".join(metrics.status(Deployment(Settings(tmp_path, {}), Docker(tmp_path)))).splitlines()
    assert lines[2].split() == ["7", "site-1", "job", "1234", "completed", "1", "1", "1", "1", "offline"]
