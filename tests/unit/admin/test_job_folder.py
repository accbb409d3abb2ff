"""A finished job's folder in the admin's volume: built once by one command, whole when it is there, never replaced under a reader."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from nvflare.fuel.flare_api.flare_api import Session

from multisite.admin import results
from multisite.job import progress, report_page
from multisite.locks import LockTimeout, held, leave

SECONDS = 30.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        threading.Event().wait(0.01)


class Archive:
    """A server's archive of job 7, as NVFlare's session downloads it: the n-th download's model is the number n."""

    def __init__(self, workspace: bool = True, goes_on: bool = True) -> None:
        self.workspace = workspace
        self.downloads = 0
        self.begun, self.goes_on = threading.Event(), threading.Event()
        if goes_on:
            self.goes_on.set()
        self.error: Exception | None = None

    def download_job_result(self, job_id: str, destination: str) -> str:
        self.downloads += 1
        folder = Path(destination) / job_id
        files = {"job/app/config/config.json": "{}"}
        if self.workspace:
            report = json.dumps({"rows": [], "complete": True})
            files |= {f"workspace/metrics/{progress.RESULTS}": report, "workspace/best.safetensors": str(self.downloads)}
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        self.begun.set()
        assert self.goes_on.wait(SECONDS)
        if self.error:
            raise self.error
        return str(folder)

    def folder(self, root: Path) -> Path:
        return results.folder_of(cast(Session, self), "7", root)


def model(folder: Path) -> str:
    return (folder / "models" / "best.safetensors").read_text(encoding="utf-8")


def test_the_folder_has_what_a_person_gets_and_nothing_half_made_is_left(tmp_path: Path) -> None:
    folder = Archive().folder(tmp_path)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert folder == tmp_path / "7"
    assert files == ["job/app/config/config.json", "models/best.safetensors", report_page.NAME, progress.RESULTS]
    assert list((tmp_path / results.PARTIAL).iterdir()) == []


def test_two_commands_for_one_job_build_its_folder_once(tmp_path: Path) -> None:
    archive = Archive(goes_on=False)
    with ThreadPoolExecutor() as pool:
        first, second = pool.submit(archive.folder, tmp_path), pool.submit(archive.folder, tmp_path)
        until(archive.begun.is_set)
        assert not (tmp_path / "7").exists()
        archive.goes_on.set()
        assert first.result(SECONDS) == second.result(SECONDS) == tmp_path / "7"
    assert archive.downloads == 1


def test_a_whole_folder_is_not_replaced_under_whoever_reads_it(tmp_path: Path) -> None:
    archive = Archive()
    with open(archive.folder(tmp_path) / "models" / "best.safetensors", encoding="utf-8") as reader:
        inode = (tmp_path / "7").stat().st_ino
        assert model(archive.folder(tmp_path)) == reader.read() == "1"
    assert (tmp_path / "7").stat().st_ino == inode
    assert archive.downloads == 1


def test_a_folder_that_is_missing_is_built_anew(tmp_path: Path) -> None:
    archive = Archive()
    archive.folder(tmp_path).rename(tmp_path / "elsewhere")
    assert model(archive.folder(tmp_path)) == "2"


def test_a_folder_of_another_release_is_built_anew(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "half").touch()
    folder = Archive().folder(tmp_path)
    assert model(folder) == "1"
    assert not (folder / "half").exists()
    leave(tmp_path / results.LOCKS / "7", "whole, layout 0")
    archive = Archive()
    archive.folder(tmp_path)
    assert archive.downloads == 1


def test_an_archive_that_had_no_workspace_yet_is_asked_for_again(tmp_path: Path) -> None:
    archive = Archive(workspace=False)
    assert not (archive.folder(tmp_path) / progress.RESULTS).exists()
    inode = (tmp_path / "7").stat().st_ino
    assert archive.folder(tmp_path).stat().st_ino == inode, "it has none still: what is there is not replaced under a reader"
    archive.workspace = True
    assert model(archive.folder(tmp_path)) == model(archive.folder(tmp_path)) == "3"


def test_a_download_that_fails_leaves_no_folder_and_the_next_one_is_whole(tmp_path: Path) -> None:
    archive = Archive()
    archive.error = RuntimeError("the server has gone")
    with pytest.raises(RuntimeError, match="has gone"):
        archive.folder(tmp_path)
    assert not (tmp_path / "7").exists()
    assert list((tmp_path / results.PARTIAL).iterdir()) == []
    archive.error = None
    assert model(archive.folder(tmp_path)) == "2"


def test_what_a_killed_command_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / results.PARTIAL / "7" / "arranged"
    left.mkdir(parents=True)
    (left / "half").touch()
    assert not (Archive().folder(tmp_path) / "half").exists()


def test_a_command_that_does_not_end_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "WAIT_SECONDS", 0.1)
    with held(tmp_path / results.LOCKS / "7", 0), pytest.raises(LockTimeout, match="another process holds"):
        Archive().folder(tmp_path)


@pytest.mark.parametrize("job_id", ["", "..", ".locks", "../7"])
def test_what_is_no_jobs_id_touches_nothing(job_id: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no job's id"):
        results.folder_of(cast(Session, None), job_id, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_can_not_be_drawn_costs_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = Archive().folder(tmp_path)
    assert not (folder / report_page.NAME).exists()
    assert (folder / progress.RESULTS).exists()
    assert "report.html could not be drawn (" in capsys.readouterr().err


def test_a_folder_that_nobody_asked_for_in_a_day_goes_with_another_jobs_and_comes_again(tmp_path: Path) -> None:
    archive = Archive()
    own = archive.folder(tmp_path)
    locked, other, young = (tmp_path / name for name in ("8", "9", "10"))
    for folder in (locked, other, young):
        folder.mkdir()
    long_ago = time.time() - results.COPY_SECONDS - 1
    for folder in (own, locked, other):
        os.utime(folder, (long_ago, long_ago))
    with held(tmp_path / results.LOCKS / "8", SECONDS):
        assert archive.folder(tmp_path) == own
    assert (own.exists(), locked.exists(), other.exists(), young.exists()) == (True, True, False, True)
    assert own.stat().st_mtime > long_ago, "it is read now"
    assert archive.downloads == 1
