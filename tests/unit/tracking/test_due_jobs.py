"""Thousands of finished jobs are kept for days: they cost next to nothing, and what changes in one is found."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from multisite.tracking import delivery as delivery_module
from multisite.tracking import due_jobs as module
from multisite.tracking.delivery import Delivery
from multisite.tracking.due_jobs import LEAST_SETTLED, SETTLED_SECONDS, DueJobs
from multisite.tracking.files import save_json
from multisite.tracking.intake import Intake, Limits
from multisite.tracking.spool import Spool
from tests.unit.spools import log, settings

JOBS = 1000


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    for number in range(JOBS):
        spool.job(f"job-{number}").folder.mkdir()
    return spool


@pytest.fixture
def due(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> DueJobs:
    """All jobs settled but the first, at a time that stands still."""
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    due = DueJobs(spool)
    for job in due.jobs():
        if job.id != "job-0":
            due.settled(job)
    return due


def examine(due: DueJobs, every: bool = False) -> list[str]:
    """The ids of the jobs that are due, all but the first of which are settled then."""
    seen = list(due.jobs(every))
    for job in seen:
        if job.id != "job-0":
            due.settled(job)
    return [job.id for job in seen]


def test_a_job_with_something_to_do_is_due_every_time_and_few_of_the_others(due: DueJobs) -> None:
    for _ in range(3):
        seen = examine(due)
        assert "job-0" in seen
        assert len(seen) == 1 + LEAST_SETTLED


def test_every_settled_job_has_its_turn(due: DueJobs) -> None:
    seen = {job for _ in range(JOBS // LEAST_SETTLED) for job in examine(due)}
    assert len(seen) == JOBS


def test_the_turn_of_a_settled_job_does_not_depend_on_how_often_one_looks(due: DueJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic() + SETTLED_SECONDS
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    assert len(examine(due)) == JOBS


def test_every_job_is_due_when_somebody_asks(due: DueJobs) -> None:
    assert len(examine(due, every=True)) == JOBS


def test_a_new_job_is_found_at_the_next_look_and_a_deleted_one_no_more(due: DueJobs, spool: Spool) -> None:
    spool.job("new").folder.mkdir()
    (spool.root / "job-7").rmdir()
    assert "new" in examine(due)
    assert "job-7" not in examine(due, every=True)


def test_a_site_that_sends_more_records_of_a_settled_job_is_due_at_once(spool: Spool) -> None:
    due = DueJobs(spool)
    line = log(Spool(spool.root / "a-site"), "site-1", 2)
    data = line.path.read_bytes()[20:]
    job = spool.job("job-1")
    save_json(job.settings_file, {"wandb": {}, "owner": ""})
    for seen in due.jobs():
        due.settled(seen)
    status = {"logged": 2, "refused": 0, "closed": False, "forwards": True, "delivered": 0, "state": "", "reason": ""}
    answer = Intake(spool, lambda job: True, Limits()).take("site-1", {"job": "job-1", "offset": 20, "data": data, **status})
    assert answer["rows"] == 2, answer
    jobs = [seen.id for seen in due.jobs()]
    assert "job-1" in jobs
    assert len(jobs) <= 1 + LEAST_SETTLED


def test_a_job_that_was_given_up_is_due_no_more_than_a_delivered_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key every job is one, after ten minutes."""
    monkeypatch.setattr(delivery_module, "GIVE_UP_SECONDS", -1.0)
    spool = Spool(tmp_path)
    log(spool, "site-1", 2).close()
    settings(spool)
    delivery = Delivery(spool, tmp_path / "no-key")
    assert delivery.tick()
    assert "job-1" in delivery._due_jobs._settled
    spool.sync_file.touch()
    looked_at = []
    monkeypatch.setattr(delivery, "_look", lambda job, asked: looked_at.append(job.id) or True)
    delivery.tick()
    assert looked_at == ["job-1"]
