"""What the tracking agent costs while nothing happens and many finished jobs are kept:  python -m tests.bench.idle [JOBS] [SECONDS]"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multisite.tracking.agent import IDLE_SECONDS
from multisite.tracking.delivery import Delivery
from multisite.tracking.files import save_json
from multisite.tracking.forwarder import DONE, ROUTE, Forwarder
from multisite.tracking.frames import MAGIC, frame
from multisite.tracking.spool import Job, Spool

JOBS, SECONDS = 10_000, 60.0
RECORD = b'[1700000000.0,1,{"loss":0.5}]'
KEY = "bench00key" * 4


def make_job(job: Job, sites: tuple[str, ...], forwarded: bool) -> None:
    """A finished job, delivered from here or, if `forwarded`, sent to the server."""
    for site in sites:
        origin = job.origin(site)
        origin.folder.mkdir(parents=True)
        origin.log.write_bytes(MAGIC + frame(RECORD) * 3)
        if forwarded:
            save_json(origin.folder / ROUTE, {"forwards": True})
            save_json(origin.folder / DONE, {"delivered": 3, "time": 0.0})
    if not forwarded:
        save_json(
            job.settings_file, {"wandb": {}, "axes": {}, "owner": sites[0], "job": job.id, "attempt": 1, "ended": "completed"}
        )
        save_json(job.writer_file, {"state": "done", "reason": "", "runs": {site: {"id": "", "delivered": 3} for site in sites}})


def measure(name: str, tick: Callable[[], Any], seconds: float) -> None:
    """Calls `tick` as the agent does, and prints what it cost."""
    started = time.process_time()
    tick()
    first = time.process_time() - started
    started, until = time.process_time(), time.monotonic() + seconds
    slept = 0
    while time.monotonic() < until:
        time.sleep(IDLE_SECONDS)
        slept += 1
        tick()
    share = (time.process_time() - started) / seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name}: {100 * share:.2f} % of a core over {slept} looks; first look {first:.2f} s; peak memory {memory:.0f} MiB",
        flush=True,
    )


def main() -> int:
    """The command line."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        server, site = Spool(Path(folder) / "server"), Spool(Path(folder) / "site")
        for number in range(jobs):
            make_job(server.job(f"job-{number}"), ("server", "site-1", "site-2"), forwarded=False)
            make_job(site.job(f"job-{number}"), ("site-1",), forwarded=True)
        key = Path(folder) / "key"
        key.write_text(KEY, encoding="utf-8")
        print(f"{jobs} finished jobs")
        measure("delivery, server", Delivery(Spool(server.root), key).tick, seconds)
        measure("delivery, site", Delivery(Spool(site.root), key).tick, seconds)
        measure("forwarder, site", Forwarder(Spool(site.root), lambda message: None).tick, seconds)
        for job in (waiting := Spool(site.root)).jobs():
            (job.origin("site-1").folder / DONE).unlink()
        print(f"{jobs} jobs that wait for the server's delivery")
        has_all = {"size": len(MAGIC + frame(RECORD) * 3), "rows": 3, "delivered": 0}
        measure("forwarder, site", Forwarder(waiting, lambda message: has_all).tick, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
