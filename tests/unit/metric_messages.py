"""What a site sends, honest but for what a test changes, and a site with its forwarder on the line to a server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multisite.tracking.files import save_json
from multisite.tracking.forwarder import ROUTE, UNKNOWN_SECONDS, Forwarder
from multisite.tracking.frames import MAGIC, frame
from multisite.tracking.intake import Intake, Limits
from multisite.tracking.records import LogWriter, Record, encode
from multisite.tracking.spool import Spool

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


def any_job(name: str) -> bool:
    return name.startswith("job-")


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
            for upload in self.forwarder._uploads.values():
                if upload.retry_at - time.monotonic() < UNKNOWN_SECONDS / 2:  # pauses are for people
                    upload.retry_at = min(upload.retry_at, 0.001)
            self.forwarder.tick()

    def rows(self, job: str) -> int:
        return self.server.job(job).origin(SITE).rows()
