"""Spools as tests need them: logs, settings, and what a writer or a site reported."""

from __future__ import annotations

import os
import time

from multisite.tracking.files import save_json
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER, Spool

DAY = 86_400


def log(spool: Spool, site: str, rows: int, job: str = "job-1") -> LogWriter:
    writer = LogWriter(spool.job(job).origin(site).log)
    for number in range(rows):
        writer.log({"value": number}, number)
    return writer


def settings(spool: Spool, job: str = "job-1") -> None:
    save_json(spool.job(job).settings_file, {"wandb": {"project": "p"}, "axes": {}, "owner": SERVER})


def delivered(spool: Spool, job: str = "job-1", **rows: int) -> None:
    runs = {site.replace("_", "-"): {"delivered": count} for site, count in rows.items()}
    save_json(spool.job(job).writer_file, {"state": "online", "runs": runs})


def reported(spool: Spool, site: str, **changes: object) -> None:
    status = {"logged": 0, "refused": 0, "closed": False, "forwards": True, "delivered": 0, "state": "", "reason": ""}
    save_json(spool.job("job-1").origin(site).site_json, {**status, **changes})


def age(spool: Spool, days: float) -> None:
    for path in spool.root.rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)
