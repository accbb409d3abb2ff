"""Which writers run: one job's files never stop another's, few finished jobs at a time, and as long as anything comes or arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from multisite.tracking import delivery as module
from multisite.tracking.delivery import FINISHED_WRITERS, Delivery
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER, Spool
from tests.unit.spools import delivered, log, settings

KEY = "delivery00" * 4


class Process:
    """A writer that runs for ever."""

    started: ClassVar[list[str]] = []

    def __init__(self, command: list[str], **_: Any) -> None:
        Process.started.append(Path(command[4]).name)
        self.stdout: list[str] = []

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        return None


@pytest.fixture
def delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Delivery:
    monkeypatch.setattr(module.subprocess, "Popen", Process)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    Process.started = []
    key = tmp_path / "key"
    key.write_text(KEY, encoding="utf-8")
    (tmp_path / "spool").mkdir()
    return Delivery(Spool(tmp_path / "spool"), key)


def finished_job(spool: Spool, name: str) -> None:
    log(spool, "site-1", 2, job=name).close()
    settings(spool, name)


@pytest.mark.parametrize("name", ["a-job", "z-job"])
def test_a_job_whose_files_can_not_be_read_does_not_stop_another(delivery: Delivery, name: str) -> None:
    finished_job(delivery.spool, "job-1")
    finished_job(delivery.spool, name)
    log_of_the_job = delivery.spool.job(name).origin(SERVER).log
    log_of_the_job.parent.mkdir()
    log_of_the_job.symlink_to(log_of_the_job.name)  # no user can read it, root neither
    delivery.tick()
    delivery.tick()
    assert Process.started == ["job-1"]


def test_few_finished_jobs_are_delivered_at_a_time_and_a_running_one_does_not_wait_for_them(delivery: Delivery) -> None:
    for number in range(FINISHED_WRITERS + 3):
        finished_job(delivery.spool, f"job-{number}")
    delivery.tick()
    assert len(Process.started) == FINISHED_WRITERS
    running = log(delivery.spool, SERVER, 1, job="running")
    settings(delivery.spool, "running")
    delivery.tick()
    running.close()
    assert Process.started[FINISHED_WRITERS:] == ["running"]


def test_a_finished_job_is_not_given_up_while_records_come_or_arrive(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    finished_job(delivery.spool, "job-1")
    delivery.tick()
    writer = delivery._writers["job-1"]

    def is_given_up_later() -> bool:
        now[0] += 0.9 * module.GIVE_UP_SECONDS
        delivery.tick()
        now[0] += 0.2 * module.GIVE_UP_SECONDS
        return writer.has_given_up()

    delivered(delivery.spool, site_1=1)
    assert not is_given_up_later()
    late = LogWriter(delivery.spool.job("job-1").origin("site-1").log)
    late.log({"value": 3}, 3)
    late.close()
    assert not is_given_up_later()
    assert is_given_up_later()
