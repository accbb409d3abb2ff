"""Whatever ends the way of a job's results in its middle, what stood there before stands there still, and no half of the new."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from multisite.console import results
from multisite.console.settings import ConsoleError
from multisite.console.submit import Following
from tests.unit.console.host import LARGE, SECONDS, Host, is_gone, packed, until


def interrupted(host: Host, run: Callable[[], object]) -> None:
    """Runs it, and presses Ctrl-C when half a file has come."""
    host.stops_after(packed(model=LARGE), len(LARGE) // 2)

    def press() -> None:
        until(host.has_begun)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    try:
        run()
    finally:
        presser.join()


@pytest.mark.parametrize("before", [{}, {"old": b"whole"}])
def test_after_ctrl_c_what_was_there_is_there_and_the_command_has_ended(host: Host, before: dict[str, bytes]) -> None:
    if before:
        host.sends(packed(**before))
        host.bring()
    with pytest.raises(KeyboardInterrupt):
        interrupted(host, host.bring)
    assert host.content() == before
    assert host.place.exists() == bool(before)
    assert host.leftovers() == []
    assert is_gone(host.calls()[-1])


def test_ctrl_c_while_results_come_says_how_to_get_them_and_does_not_ask_to_abort_the_job(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = {"event": "finished", "job_id": "7", "status": "FINISHED:COMPLETED"}
    following = Following(host.deployment, job_id="7")
    monkeypatch.setattr(following, "_watch", lambda arguments: following._finish(finished))
    codes: list[int] = []
    interrupted(host, lambda: codes.append(following.watch(["follow"])))
    assert codes == [130]
    assert "job 7 is FINISHED:COMPLETED. `make results JOB=7` brings them" in capsys.readouterr().out
    assert not host.place.exists()


KILLED = """
import sys
from pathlib import Path
from multisite.console import results
from multisite.console.deployment import Deployment
from multisite.console.docker import Container, Docker
from multisite.console.settings import Settings
Docker.containers = lambda _: {"admin": Container("admin", "id", "running", None)}
home = Path(sys.argv[1])
results.bring(Deployment(Settings(home, {}), Docker(home)), "7")
"""


def test_what_a_killed_console_left_is_no_result_and_the_next_one_clears_it(host: Host) -> None:
    host.stops_after(packed(model=LARGE), len(LARGE) // 2)
    console = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(host.home)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        until(host.has_begun)
    finally:
        console.kill()
        console.wait(SECONDS)
        os.kill(host.calls()[-1], signal.SIGKILL)
    assert not host.place.exists()
    host.sends(packed(other=b"x"))
    host.bring()
    assert host.content() == {"other": b"x"}
    assert host.leftovers() == []


@pytest.mark.parametrize("swapped", [False, True])
def test_a_console_that_was_killed_while_it_swapped_loses_nothing(host: Host, swapped: bool) -> None:
    old = host.home / "results" / results.PARTIAL / "7" / results.OLD
    old.mkdir(parents=True)
    (old / "notes.txt").write_bytes(b"a person's")
    (old / "model").write_bytes(b"old")
    if swapped:
        host.place.mkdir()
        (host.place / "model").write_bytes(b"new")
    host.docker("exit 1")
    with pytest.raises(ConsoleError):
        host.bring()
    assert host.content() == {"notes.txt": b"a person's", "model": b"new" if swapped else b"old"}
    assert host.leftovers() == []


@pytest.mark.parametrize("before", [{}, {"old": b"whole"}])
def test_a_full_disk_leaves_what_was_there(host: Host, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes]) -> None:
    if before:
        host.sends(packed(**before))
        host.bring()

    def full(source: io.BufferedReader, target: io.BufferedWriter) -> None:
        target.write(source.read(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    host.sends(packed(model=LARGE))
    with pytest.raises(ConsoleError, match=r"can't be written \(.*No space left(.|\n)*next: free disk space"):
        host.bring()
    assert host.content() == before
    assert host.leftovers() == []


def test_a_folder_that_can_not_be_renamed_in_brings_the_old_one_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.sends(packed(old=b"whole"))
    host.bring()
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source).parent.name == results.NEW:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    host.sends(packed(new=b"x"))
    with pytest.raises(ConsoleError, match="can't be written"):
        host.bring()
    assert host.content() == {"old": b"whole"}
    assert host.leftovers() == []


def test_a_reader_of_the_progress_that_goes_away_is_no_folder_that_can_not_be_written(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(text: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("multisite.console.stream.SHOW_SECONDS_IN_LOG", 0.0)
    monkeypatch.setattr("multisite.console.stream.say", closed)
    host.sends(packed(model=LARGE))
    with pytest.raises(BrokenPipeError):
        host.bring()
    assert host.leftovers() == []
