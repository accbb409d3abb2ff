"""What the server takes of a site, against whoever holds its kit: what is refused leaves nothing, and what is kept is bounded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multisite.tracking import intake as intake_module
from multisite.tracking.files import STATES, save_json
from multisite.tracking.frames import MAGIC, MAX_RECORD_BYTES
from multisite.tracking.intake import FIELDS, OPEN_LOGS, Intake, Limits
from multisite.tracking.spool import Spool
from multisite.tracking.sync import recent_refusals, reports
from tests.unit.metric_messages import JOB, OTHER, SITE, SMALL, Line, any_job, descriptors, everything, message, records


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "server")


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
    assert Intake(spool, any_job).take(SITE, sent) == {"error": "a malformed message: the message must be an object"}
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
    assert "error" in answer or set(answer) == {"size", "rows", "delivered"}
    json.dumps(reports(Spool(spool.root)), allow_nan=False)
    json.dumps(recent_refusals(spool), allow_nan=False)


# --- limits ---


def fill(intake: Intake, site: str, job: str = JOB, batches: int = 100) -> str:
    """Sends 100 KB a message until it is refused; returns why."""
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
    assert "as much as METRICS_SITE_MB allows; next: make sync" in fill(intake, SITE, "job-2")
    assert sum(path.stat().st_size for path in spool.root.rglob("records.log")) <= SMALL.bytes + len(MAGIC)
    assert "error" not in intake.take(SITE, message(logged=7000))  # the status of its log is still taken
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


@pytest.mark.parametrize(
    ("text", "megabytes"), [("", 2000), ("5", 5), ("none", 2000), ("-1", 2000), ("0", 2000), ("1e9", 2000), ("0000000000099", 2000)]
)
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
