"""What waits for delivery on this machine, and its delivery.

    python -m multisite.tracking.sync [--status] [--timeout SECONDS]

Prints one JSON object: `jobs`, a report each (`multisite.tracking.spool.Job.report`), and `refusals`: what was refused of a site in the
last day (`multisite.tracking.files.refusals`). Exit status 1 if anything is pending.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from filelock import Timeout

from multisite.text import clean
from multisite.tracking.delivery import Delivery
from multisite.tracking.files import changed_at, read_json, refusals
from multisite.tracking.spool import BLOCKED, Job, Spool, root

TIMEOUT_SECONDS = 300.0
SETTLE_SECONDS = 8.0  # a writer that was just asked to try again needs that long to say that it can't
POLL_SECONDS = 0.5
SHOWN_SECONDS = 86_400.0  # of a refusal


def reports(spool: Spool) -> list[dict[str, Any]]:
    """Every job's, the oldest first."""
    jobs = sorted(spool.jobs(), key=lambda job: changed_at(job.folder))
    return [report for report in map(_report, jobs) if report["sites"] or report["problems"]]


def _report(job: Job) -> dict[str, Any]:
    """A job's; one whose files can't be read is reported as that, and every other as it is."""
    try:
        return job.report()
    except OSError as error:
        problem = clean(f"{error.strerror}: {error.filename}")
        return {
            "job_id": job.id,
            "delivers": False,
            "state": "",
            "reason": "",
            "sites": {},
            "pending": 0,
            "unfinished": False,
            "problems": [problem],
        }


def recent_refusals(spool: Spool) -> dict[str, Any]:
    """What was refused of whom in the last day, by site and kind."""
    found, problem = read_json(spool.refusals_file, refusals)
    if problem:
        print(problem, file=sys.stderr)
    now, recent = time.time(), {}
    for site, kinds in found.items():
        if shown := {kind: known for kind, known in kinds.items() if now - known["time"] < SHOWN_SECONDS}:
            recent[site] = shown
    return recent


def sync(spool: Spool, timeout: float) -> list[dict[str, Any]]:
    """Asks whoever delivers here to try again now, and waits until nothing is pending, nothing can be done, or `timeout` seconds.

    Where nobody delivers (after a simulation, say) this process does.
    """
    spool.root.mkdir(parents=True, exist_ok=True)
    spool.sync_file.touch()
    delivery = None
    try:
        delivery = Delivery(spool)
        delivery.start()
    except Timeout:  # the tracking agent does
        pass
    started = time.monotonic()
    try:
        while True:
            found = reports(spool)
            waiting = [report for report in found if report["delivers"] and _deliverable(report)]
            stuck = all(report["state"] in BLOCKED for report in waiting)
            waited = time.monotonic() - started
            if not waiting or waited > timeout or (stuck and waited > SETTLE_SECONDS):
                return found
            time.sleep(POLL_SECONDS)
    finally:
        if delivery is not None:
            delivery.stop()


def _deliverable(report: dict[str, Any]) -> int:
    """Rows that are here and not delivered; a run or a model that is to be finished counts as one."""
    waiting: int = sum(site["received"] - site["delivered"] for site in report["sites"].values())
    return waiting + bool(report["unfinished"])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--status", action="store_true", help="only say what there is")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS)
    parser.add_argument("--spool", type=Path, help="default: MULTISITE_SPOOL")
    arguments = parser.parse_args()
    spool = Spool(arguments.spool or root("."))
    found = reports(spool) if arguments.status else sync(spool, arguments.timeout)
    print(json.dumps({"jobs": found, "refusals": recent_refusals(spool)}))
    return 1 if any(report["pending"] for report in found) and not arguments.status else 0


if __name__ == "__main__":
    sys.exit(main())
