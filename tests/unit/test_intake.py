"""The server's end of the way, against whoever holds one site's kit: what is refused leaves nothing, and what is kept is bounded."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvflare.apis.impl.job_def_manager import SimpleJobDefManager
from nvflare.apis.server_engine_spec import ServerEngineSpec
from nvflare.app_common.storages.filesystem_storage import FilesystemStorage

from multisite.tracking import intake as intake_module
from multisite.tracking.agent import known_jobs
from multisite.tracking.delivery import sweep
from multisite.tracking.files import STATES, load_json, save_json
from multisite.tracking.forwarder import DONE, ROUTE, UNKNOWN_SECONDS, Forwarder
from multisite.tracking.intake import FIELDS, OPEN_LOGS, Intake, Limits
from multisite.tracking.records import MAGIC, MAX_RECORD_BYTES, LogWriter, Record, encode, frame
from multisite.tracking.spool import SERVER, Spool
from multisite.tracking.sync import recent_refusals, reports

JOB, SITE, OTHER = "job-1", "site-1", "site-2"
SMALL = Limits(megabytes=1, jobs=3)


def message(job: Any = JOB, **changes: Any) -> dict[str, Any]:
    honest = {"job": job, "offset": len(MAGIC), "data": b"", "logged": 0, "refused": 0, "closed": False, "forwards": True}
    return {**honest, "delivered": 0, "state": "", "reason": "", **changes}


def records(count: int, size: int = 10) -> bytes:
    return frame(encode(Record(1.0, 1, {"x": "y" * size}))) * count


def everything(spool: Spool) -> dict[str, bytes]:
    """Every file of the spool, without the note of what was refused."""
    return {str(path): path.read_bytes() for path in spool.root.rglob("*") if path.is_file() and path != spool.refusals_file}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "server")


def any_job(name: str) -> bool:
    return name.startswith("job-")


# --- jobs that the server does not know ---


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


class Line:
    """A site's spool with one closed log a job, and its forwarder to a server."""

    def __init__(self, folder: Path, knows: Callable[[str], bool], *jobs: str) -> None:
        self.spool, self.server = Spool(folder / "site"), Spool(folder / "server")
        self.intake, self.messages = Intake(self.server, knows), list[dict[str, Any]]()
        for job in jobs:
            log = LogWriter(self.spool.job(job).origin(SITE).log)
            save_json(self.spool.job(job).origin(SITE).folder / ROUTE, {"forwards": True})
            for value in range(5):
                log.log({"x": value}, value)
            log.close()
        self.start()

    def start(self) -> None:
        self.forwarder = Forwarder(self.spool, self.send)

    def send(self, sent: dict[str, Any]) -> dict[str, Any]:
        self.messages.append(sent)
        return self.intake.take(SITE, sent)

    def ticks(self, count: int = 6) -> None:
        for _ in range(count):
            for passage in self.forwarder._passages.values():
                if passage.retry_at - time.monotonic() < UNKNOWN_SECONDS / 2:  # pauses are for people
                    passage.retry_at = min(passage.retry_at, 0.001)
            self.forwarder.tick()

    def rows(self, job: str) -> int:
        return self.server.job(job).origin(SITE).rows()


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
        if path.is_file():
            os.utime(path, (time.time() - 8 * 86_400,) * 2)
    assert sweep(line.server) == [job]


def test_a_site_that_comes_back_to_a_delivered_and_deleted_job_is_told_and_the_job_does_not_rise(tmp_path: Path) -> None:
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


# --- fields ---

BAD_FIELDS: list[tuple[str, Any]] = [
    *((name, value) for name in ("offset", "logged", "refused", "delivered")
      for value in ("x", [1], -5, True, 1.5, None, {}, 2**63, 10**30)),
    *((name, value) for name in ("closed", "forwards") for value in ("yes", 1, 0, None, [])),
    ("delivered", 1), ("logged", SMALL.records + 1), ("logged", 10**9),
    ("data", "text"), ("data", {"a": 1}), ("data", [1]), ("data", None), ("data", b"x" * (MAX_RECORD_BYTES + 9)),
    ("state", "perfect"), ("state", 5), ("state", None), ("state", "online\x1b[2J"), ("state", ["online"]),
    ("reason", "y" * 10_000_000), ("reason", "a\nb"), ("reason", "\x1b]0;owned\x07"), ("reason", "\u202egnp"), ("reason", {"a": [1]}),
    ("job", "../../x"), ("job", "a/b"), ("job", ".."), ("job", ""), ("job", "a" * 129), ("job", 5), ("job", None), ("job", "a\x1b[2J"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=lambda value: str(value)[:20].encode("unicode_escape").decode())
def test_a_field_of_another_kind_is_refused_by_its_name_and_nothing_is_written(spool: Spool, name: str, value: Any) -> None:
    intake = Intake(spool, lambda job: True, SMALL)
    intake.take(SITE, message(logged=2, data=records(2)))
    before = everything(spool)
    answer = intake.take(
        SITE, message(**{"logged": 3, "data": records(3), "delivered": 0, name: value} if name != "delivered" else {name: value})
    )
    assert answer["error"].startswith("a malformed message: ")
    assert name in answer["error"]
    assert len(answer["error"]) < 500
    assert answer["error"].isprintable()
    assert everything(spool) == before


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing_is_named(spool: Spool, name: str) -> None:
    sent = message()
    del sent[name]
    assert Intake(spool, any_job).take(SITE, sent)["error"] == f"a malformed message: {name} is missing"
    assert everything(spool) == {}


def test_a_field_that_nobody_knows_is_named(spool: Spool) -> None:
    assert "'colour' is no field" in Intake(spool, any_job).take(SITE, message(colour="red"))["error"]
    assert everything(spool) == {}


@pytest.mark.parametrize("sent", [None, [1, 2], "x", b"x", 5])
def test_a_message_that_is_no_object_is_refused(spool: Spool, sent: Any) -> None:
    assert "error" in Intake(spool, any_job).take(SITE, sent)
    assert everything(spool) == {}


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.sampled_from([JOB, *STATES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(changes=st.dictionaries(st.sampled_from(FIELDS), JUNK, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_answered_and_every_report_can_still_be_made(tmp_path: Path, changes: dict[str, Any]) -> None:
    spool = Spool(tmp_path / "server")
    answer = Intake(spool, lambda job: job == JOB, SMALL).take(SITE, {**message(), **changes})
    assert "error" in answer or set(answer) == {"size", "delivered"}
    json.dumps(reports(Spool(spool.root)), allow_nan=False)
    json.dumps(recent_refusals(spool), allow_nan=False)


# --- limits ---


def fill(intake: Intake, site: str, job: str = JOB, batches: int = 100) -> str:
    """Sends 100 KB a message until it is refused; returns with what words."""
    offset, batch = len(MAGIC), records(100, 1000)
    for _ in range(batches):
        answer = intake.take(site, message(job, offset=offset, data=batch, logged=0))
        if "error" in answer:
            return str(answer["error"])
        offset = answer["size"]
    return ""


def test_a_site_keeps_no_more_megabytes_on_the_server_than_it_may(spool: Spool) -> None:
    intake = Intake(spool, any_job, SMALL)
    assert "site-1 has" in fill(intake, SITE)
    told = fill(intake, SITE, "job-2")
    assert "as much as METRICS_SITE_MB allows; next: make sync" in told
    assert sum(path.stat().st_size for path in spool.root.rglob("records.log")) <= SMALL.bytes + len(MAGIC)
    assert "error" not in intake.take(SITE, message(logged=7000))  # what it says of its log is still heard
    assert spool.job(JOB).accounts()[SITE].logged == 7000
    assert "error" not in intake.take(OTHER, message(logged=1, data=records(1)))
    intake.close()
    restarted = Intake(spool, any_job, SMALL)
    assert "METRICS_SITE_MB" in fill(restarted, SITE)
    restarted.close()
    assert fill(Intake(spool, any_job, Limits(megabytes=2)), SITE, batches=5) == ""


def test_a_site_keeps_metrics_of_no_more_jobs_than_it_may(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = Intake(spool, any_job, SMALL)
    answers = [intake.take(SITE, message(f"job-{number}")) for number in range(5)]
    assert ["error" in answer for answer in answers] == [False] * 3 + [True] * 2
    assert "as many as METRICS_SITE_JOBS allows" in answers[3]["error"]
    assert "error" not in intake.take(SITE, message("job-0", logged=1, data=records(1)))
    assert "error" not in intake.take(OTHER, message("job-4"))
    assert not spool.job("job-4").origin(SITE).folder.exists()
    monkeypatch.setattr(intake_module, "USAGE_SECONDS", 0.0)
    for path in (spool.root / "job-0" / SITE).iterdir():
        path.unlink()
    (spool.root / "job-0" / SITE).rmdir()
    assert "error" not in intake.take(SITE, message("job-3"))


def test_a_site_over_its_limit_keeps_its_records_and_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, any_job, JOB)
    line.intake.close()
    line.intake = Intake(line.server, any_job, Limits(jobs=1))
    line.intake.take(SITE, message("job-0"))
    line.ticks()
    assert "wait on this site, nothing is lost: site-1 has metrics of 1 jobs on the server" in caplog.text
    line.intake = Intake(line.server, any_job, Limits(jobs=2))
    line.ticks()
    assert line.rows(JOB) == 5


def test_a_million_values_of_each_of_8_sites_are_within_the_limits() -> None:
    assert len(records(1)) * 1_000_000 < Limits().bytes
    assert Limits().records > 8_000_000


@pytest.mark.parametrize(("text", "megabytes"), [("", 2000), ("5", 5), ("none", 2000), ("-1", 2000), ("0", 2000), ("1e9", 2000)])
def test_the_limits_are_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str, megabytes: int
) -> None:
    monkeypatch.setenv("METRICS_SITE_MB", text)
    monkeypatch.setenv("METRICS_SITE_JOBS", "7")
    assert Limits.load() == Limits(megabytes, 7)
    assert ("METRICS_SITE_MB must be a whole number" in caplog.text) == (text not in ("", "5"))


def test_what_was_refused_is_kept_for_make_status_by_site_and_kind(spool: Spool) -> None:
    intake = Intake(spool, any_job, SMALL)
    intake.take(OTHER, message("evil"))
    intake.take(OTHER, message(logged="x"))
    fill(intake, SITE)
    found = recent_refusals(Spool(spool.root))
    assert set(found[OTHER]) == {"unknown job", "message"}
    assert "logged must be a whole number" in found[OTHER]["message"]["reason"]
    assert "METRICS_SITE_MB" in found[SITE]["megabytes"]["reason"]
    save_json(spool.refusals_file, {OTHER: {"message": {"count": 1, "time": time.time() - 2 * 86_400, "reason": "old"}}})
    assert recent_refusals(spool) == {}


# --- open logs ---


def test_the_logs_that_are_open_are_bounded_and_one_that_was_closed_goes_on(spool: Spool) -> None:
    intake = Intake(spool, any_job)
    before = descriptors()
    for turn in range(3):
        for number in range(40):
            answer = intake.take(
                SITE, message(f"job-{number}", offset=len(MAGIC) + turn * len(records(1)), data=records(1), logged=9)
            )
            assert answer["size"] == len(MAGIC) + (turn + 1) * len(records(1))
            assert descriptors() <= before + OPEN_LOGS
    assert descriptors() == before + OPEN_LOGS
    assert all(spool.job(f"job-{number}").origin(SITE).rows() == 3 for number in range(40))


def test_one_site_can_not_close_the_logs_of_another(spool: Spool) -> None:
    intake = Intake(spool, any_job)
    intake.take(SITE, message(logged=1))
    log = intake._senders[SITE].logs[JOB]
    for number in range(100):
        intake.take(OTHER, message(f"job-{number}", logged=1))
    assert intake._senders[SITE].logs[JOB] is log
