"""What a participant keeps, and for how long: jobs, uploads, the audit log. Metrics have a retention of their own (`tracking/delivery.py`).

A job's definition and archive (server), and its folder (server and sites), go JOBS_KEEP_DAYS after their last change. One that runs, has
not ended, or has metrics that W&B has not, stays. NVFlare's own logs rotate by themselves.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from nvflare.fuel.sec.audit import Auditor, AuditService

from multisite.tracking.delivery import is_delivered
from multisite.tracking.spool import Spool

VARIABLE, DAYS = "JOBS_KEEP_DAYS", 30
DAY_SECONDS = 86_400.0
EVERY_SECONDS = 3600.0
UPLOAD_SECONDS = DAY_SECONDS  # what an admin has sent is read at once
AUDIT_BYTES, AUDIT_FILES = 20 << 20, 5
ENDED = "FINISHED"
JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

logger = logging.getLogger("multisite.node")


class JobStore(Protocol):
    """The two methods of NVFlare's `JobDefManagerSpec` that are needed."""

    def get_all_jobs(self, fl_ctx: Any) -> list[Any]:
        """Every job that was submitted and not deleted; `meta` has its status."""

    def delete(self, jid: str, fl_ctx: Any) -> None:
        """Deletes a job's definition and archive."""


def keep_seconds() -> float:
    """As JOBS_KEEP_DAYS says.

    Raises:
        ValueError: it is no whole number above 0.
    """
    text = os.environ.get(VARIABLE) or str(DAYS)
    if not (text.isdecimal() and int(text)):
        raise ValueError(f"{VARIABLE}={text} is no whole number above 0\n  next: correct it in .env")
    return int(text) * DAY_SECONDS


def sweep(workspace: Path, spool: Spool, running: Collection[str]) -> None:
    """Deletes the folders of jobs that ended long ago, and what admins have uploaded; begins a new audit log where it is long.

    Args:
        workspace: the participant's.
        spool: the one of its metrics.
        running: the jobs that run now.
    """
    for folder in _older(workspace, keep_seconds()):
        if JOB_ID.fullmatch(folder.name) and folder.name not in running and not has_pending(spool, folder.name):
            _delete(folder)
    for folder in _older(workspace / "transfer", UPLOAD_SECONDS):
        _delete(folder)
    rotate_audit(workspace / "audit.log")


def sweep_store(store: JobStore, folder: Path, spool: Spool, fl_ctx: Any) -> None:
    """Deletes the definitions and archives of jobs that ended long ago.

    Args:
        store: NVFlare's.
        folder: where it keeps them, a folder each.
        spool: a job with metrics that W&B has not stays.
        fl_ctx: of the server's engine.
    """
    old = {entry.name for entry in _older(folder, keep_seconds())}
    for job in store.get_all_jobs(fl_ctx) if old else ():
        if job.job_id in old and str(job.meta.get("status", "")).startswith(ENDED) and not has_pending(spool, job.job_id):
            store.delete(job.job_id, fl_ctx)
            logger.info("job %s ended more than %s ago: deleted (%s)", job.job_id, _days(keep_seconds()), VARIABLE)


def has_pending(spool: Spool, job_id: str) -> bool:
    """Whether W&B has not every metric of a job; also where nobody can say."""
    job = spool.job(job_id)
    return job.folder.is_dir() and not is_delivered(job)


def rotate_audit(path: Path) -> None:
    """Begins a new audit log where this one is long; the last few stay beside it. No line is lost."""
    if not path.is_file() or path.stat().st_size < AUDIT_BYTES:
        return
    for number in range(AUDIT_FILES - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            os.replace(older, path.with_name(f"{path.name}.{number + 1}"))
    os.replace(path, path.with_name(f"{path.name}.1"))
    before = AuditService.get_auditor()
    if before is not None:
        AuditService.the_auditor = Auditor(str(path))
        before.close()


def _older(folder: Path, seconds: float) -> list[Path]:
    """What in a folder nothing has changed for so long."""
    if not folder.is_dir():
        return []
    limit = time.time() - seconds
    return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink() and _changed_at(entry) < limit]


def _changed_at(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
        logger.info("%s is deleted: nothing has changed in it for long", folder)
    except OSError as error:
        logger.warning("%s can't be deleted: %s", folder, error.strerror)


def _days(seconds: float) -> str:
    return f"{seconds / DAY_SECONDS:.0f} days"
