"""What a participant deletes after JOBS_KEEP_DAYS, and what it never deletes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.fuel.sec.audit import AuditService

from multisite.node import retention
from multisite.tracking.files import save_json
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import Spool

OLD, NEW = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"


@pytest.fixture(autouse=True)
def _ten_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retention.VARIABLE, "10")


def aged(folder: Path, days: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text("x", encoding="utf-8")
    moment = time.time() - days * retention.DAY_SECONDS
    for path in (folder / "log.txt", folder):
        os.utime(path, (moment, moment))
    return folder


def log_one(spool: Spool, job_id: str, delivered: int) -> None:
    job = spool.job(job_id)
    log = LogWriter(job.origin("site-1").log)
    log.log({"a": 1}, 0)
    log.close()
    save_json(job.writer_file, {"state": "done", "runs": {"site-1": {"id": "", "delivered": delivered}}})


def test_the_folder_of_a_job_that_ended_long_ago_goes_and_every_other_stays(tmp_path: Path) -> None:
    old, new, local = aged(tmp_path / OLD, 11), aged(tmp_path / NEW, 9), aged(tmp_path / "local", 99)
    retention.sweep(tmp_path, Spool(tmp_path / "spool"), [])
    assert (old.exists(), new.exists(), local.exists()) == (False, True, True)


def test_a_job_that_runs_or_has_undelivered_metrics_stays_however_old_it_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    running, pending = aged(tmp_path / OLD, 99), aged(tmp_path / NEW, 99)
    log_one(spool, NEW, delivered=0)
    retention.sweep(tmp_path, spool, [OLD])
    assert running.exists()
    assert pending.exists()
    log_one(spool, NEW, delivered=2)
    retention.sweep(tmp_path, spool, [])
    assert not running.exists()
    assert not pending.exists()


def test_a_change_anywhere_in_a_jobs_folder_counts(tmp_path: Path) -> None:
    folder = aged(tmp_path / OLD, 99)
    (folder / "log.txt").write_text("more", encoding="utf-8")
    moment = time.time() - 99 * retention.DAY_SECONDS
    os.utime(folder, (moment, moment))
    retention.sweep(tmp_path, Spool(tmp_path / "spool"), [])
    assert folder.exists()


def test_uploads_go_after_a_day(tmp_path: Path) -> None:
    old, new = aged(tmp_path / "transfer" / "a", 1.1), aged(tmp_path / "transfer" / "b", 0.5)
    retention.sweep(tmp_path, Spool(tmp_path / "spool"), [])
    assert (old.exists(), new.exists()) == (False, True)


class Store:
    """NVFlare's job store, as far as it is asked."""

    def __init__(self, **status: str) -> None:
        self.status = status
        self.deleted: list[str] = []

    def get_all_jobs(self, fl_ctx: Any) -> list[Any]:
        return [SimpleNamespace(job_id=name.replace("_", "-")[1:], meta={"status": status}) for name, status in self.status.items()]

    def delete(self, jid: str, fl_ctx: Any) -> None:
        self.deleted.append(jid)


@pytest.mark.parametrize(
    ("status", "days", "delivered", "goes"),
    [
        ("FINISHED:COMPLETED", 11, 2, True),
        ("FINISHED:ABORTED", 11, 2, True),
        ("FINISHED:COMPLETED", 9, 2, False),
        ("RUNNING", 99, 2, False),
        ("SUBMITTED", 99, 2, False),
        ("FINISHED:COMPLETED", 99, 0, False),
    ],
)
def test_a_stored_job_goes_when_it_ended_long_ago_and_w_and_b_has_its_metrics(
    tmp_path: Path, status: str, days: float, delivered: int, goes: bool
) -> None:
    spool = Spool(tmp_path / "spool")
    log_one(spool, OLD, delivered)
    aged(tmp_path / "jobs" / OLD, days)
    store = Store(**{"j" + OLD.replace("-", "_"): status})
    retention.sweep_store(store, tmp_path / "jobs", spool, None)
    assert store.deleted == ([OLD] if goes else [])


def test_a_long_audit_log_is_put_aside_and_no_line_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AUDIT_BYTES", 200)
    monkeypatch.setattr(AuditService, "the_auditor", None)
    path = tmp_path / "audit.log"
    AuditService.initialize(str(path))
    for number in range(40):
        AuditService.add_event("somebody", f"action-{number}")
        retention.rotate_audit(path)
    AuditService.close()
    files = sorted(tmp_path.glob("audit.log*"))
    assert len(files) <= retention.AUDIT_FILES + 1
    kept = [f"action-{number}" for number in range(40) if any(f"[A:action-{number}]" in file.read_text() for file in files)]
    assert kept == [f"action-{number}" for number in range(40 - len(kept), 40)]
    assert len(kept) > retention.AUDIT_FILES


@pytest.mark.parametrize("text", ["0", "-1", "ten", "1.5"])
def test_days_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(retention.VARIABLE, text)
    with pytest.raises(ValueError, match=f"{retention.VARIABLE}={text} is no whole number above 0"):
        retention.keep_seconds()
