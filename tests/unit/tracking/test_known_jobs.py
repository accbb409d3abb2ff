"""Metrics of jobs that the server does not know, or knows no more: nothing of them is written, and no site loses a record."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.impl.job_def_manager import SimpleJobDefManager
from nvflare.apis.server_engine_spec import ServerEngineSpec
from nvflare.app_common.storages.filesystem_storage import FilesystemStorage

from multisite.tracking.agent import known_jobs
from multisite.tracking.delivery import sweep
from multisite.tracking.files import load_json, save_json
from multisite.tracking.forwarder import DONE
from multisite.tracking.intake import Intake
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER, Spool
from multisite.tracking.sync import reports
from tests.unit.metric_messages import JOB, OTHER, SITE, Line, any_job, descriptors, everything, message, records


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "server")


def test_20_000_messages_for_jobs_that_do_not_exist_leave_nothing(spool: Spool) -> None:
    intake = Intake(spool, any_job)
    intake.take(OTHER, message("evil"))
    folders, open_before = everything(spool), descriptors()
    tracemalloc.start()
    for number in range(20_000):
        answer = intake.take(OTHER, message(f"evil{number}", logged=1, data=records(1)))
        assert "the server knows no job" in answer["error"]
    ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/multisite/*")])
    tracemalloc.stop()
    assert everything(spool) == folders
    assert [entry.name for entry in spool.root.iterdir()] == [spool.refusals_file.name]
    assert descriptors() == open_before
    assert sum(trace.size for trace in ours.traces) < 100_000
    assert list(spool.jobs()) == []


class Engine(ServerEngineSpec):  # type: ignore[misc]  # NVFlare is untyped
    """What the agent needs of NVFlare's engine, with NVFlare's own job store."""

    def __init__(self, folder: Path) -> None:
        self.manager = SimpleJobDefManager(uri_root=str(folder / "jobs"))
        self.store = FilesystemStorage()

    def get_component(self, component_id: str) -> object:
        return {"job_manager": self.manager, "job_store": self.store}.get(component_id)

    def new_context(self) -> Any:
        from nvflare.apis.fl_constant import ReservedKey
        from nvflare.apis.fl_context import FLContext

        context = FLContext()
        context.put(ReservedKey.ENGINE, self, private=True, sticky=False)
        return context


Engine.__abstractmethods__ = frozenset()


def test_a_job_is_known_when_nvflares_store_has_it_and_no_other_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tmp_path)
    meta = engine.manager.create({"name": "job"}, b"content", engine.new_context())

    def listing(*arguments: object) -> None:
        raise AssertionError("the whole store is read")

    monkeypatch.setattr(FilesystemStorage, "list_objects", listing)
    knows = known_jobs(engine)
    assert knows(meta["job_id"])
    assert not knows("00000000-0000-0000-0000-000000000000")
    engine.manager.delete(meta["job_id"], engine.new_context())
    assert not knows(meta["job_id"])


def test_the_store_is_asked_once_about_a_job_that_it_has(spool: Spool) -> None:
    asked: list[str] = []
    intake = Intake(spool, lambda name: not asked.append(name))
    for _ in range(5):
        assert "error" not in intake.take(SITE, message())
    assert asked == [JOB]


def test_a_store_that_does_not_answer_is_no_reason_to_give_up(spool: Spool) -> None:
    def broken(name: str) -> bool:
        raise OSError("no disk")

    answer = Intake(spool, broken).take(SITE, message())
    assert "no disk" in answer["error"]
    assert "unknown" not in answer


def test_a_site_keeps_the_records_of_a_job_that_was_deleted_says_so_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, any_job, "deleted", "job-2")
    line.ticks(20)
    assert line.rows("job-2") == 5
    assert sum(sent["job"] == "deleted" for sent in line.messages) == 1
    said = [
        record.getMessage() for record in caplog.records if "deleted" in record.getMessage() and "this site" in record.getMessage()
    ]
    assert len(said) == 1
    assert "nothing is lost" in said[0]
    assert "next: restore the job there, or delete" in said[0]
    assert line.spool.job("deleted").origin(SITE).rows() == 5
    assert not (line.server.root / "deleted").exists()


def test_a_job_that_is_restored_is_sent_when_somebody_asks_for_it(tmp_path: Path) -> None:
    known = {"job-2"}
    line = Line(tmp_path, known.__contains__, "job-1")
    line.ticks()
    assert not (line.server.root / "job-1").exists()
    known.add("job-1")
    line.spool.sync_file.touch()
    line.ticks()
    assert line.rows("job-1") == 5


def test_a_job_that_the_store_has_no_more_is_known_while_its_records_are_here(tmp_path: Path) -> None:
    known = {JOB}
    line = Line(tmp_path, known.__contains__, JOB)
    line.ticks(1)
    known.clear()
    line.intake.close()
    line.intake = Intake(line.server, known.__contains__)
    line.ticks()
    assert line.rows(JOB) == 5


def sweep_delivered(line: Line, job: str, rows: int) -> None:
    """What the server does when W&B has every row, eight days later."""
    save_json(line.server.job(job).settings_file, {"wandb": {}, "owner": SERVER})
    save_json(line.server.job(job).writer_file, {"state": "done", "runs": {SITE: {"delivered": rows}}})
    for path in line.server.root.rglob("*"):
        os.utime(path, (time.time() - 8 * 86_400,) * 2)
    assert sweep(line.server) == [job]


def test_a_site_that_comes_back_to_a_delivered_and_deleted_job_is_done_with_it_and_the_job_is_not_made_again(
    tmp_path: Path,
) -> None:
    line = Line(tmp_path, any_job, JOB)
    line.ticks()
    sweep_delivered(line, JOB, 5)
    line.start()
    line.ticks(3)
    assert load_json(line.spool.job(JOB).origin(SITE).folder / DONE)["delivered"] == 5
    assert reports(line.server) == []
    assert not (line.server.root / JOB).exists()


def test_records_that_come_after_a_job_was_delivered_and_deleted_stay_on_the_site(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, any_job, JOB)
    line.ticks()
    sweep_delivered(line, JOB, 5)
    log = LogWriter(line.spool.job(JOB).origin(SITE).log)
    log.log({"late": 1}, 6)
    log.close()
    line.start()
    line.ticks(3)
    assert f"delivered job {JOB} with 5 records of {SITE}" in caplog.text
    assert not (line.spool.job(JOB).origin(SITE).folder / DONE).exists()
    assert not (line.server.root / JOB).exists()
