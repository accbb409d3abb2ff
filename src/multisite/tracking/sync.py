"""What waits for delivery on this machine, and its delivery.

    python -m multisite.tracking.sync [--status] [--timeout SECONDS]

Prints one JSON object: `jobs`, a report each (`multisite.tracking.spool.Job.report`). Exit status 1 if anything is pending.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from multisite.tracking.delivery import Delivery
from multisite.tracking.spool import HOPELESS, Spool, root

TIMEOUT_SECONDS = 300.0
SETTLE_SECONDS = 8.0  # a writer that was just asked to try again needs that long to say that it can't
POLL_SECONDS = 0.5


def reports(spool: Spool) -> list[dict[str, Any]]:
    """Every job's, the oldest first."""
    jobs = sorted(spool.jobs(), key=lambda job: job.folder.stat().st_ctime)
    return [report for report in (job.report() for job in jobs) if report["sites"]]


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
    except BlockingIOError:
        pass
    started = time.monotonic()
    try:
        while True:
            found = reports(spool)
            waiting = [report for report in found if report["delivers"] and _deliverable(report)]
            stuck = all(report["state"] in HOPELESS for report in waiting)
            waited = time.monotonic() - started
            if not waiting or waited > timeout or (stuck and waited > SETTLE_SECONDS):
                return found
            time.sleep(POLL_SECONDS)
    finally:
        if delivery is not None:
            delivery.stop()


def _deliverable(report: dict[str, Any]) -> int:
    """Rows that are here and not delivered."""
    return sum(site["received"] - site["delivered"] for site in report["sites"].values())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--status", action="store_true", help="only say what there is")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS)
    parser.add_argument("--spool", type=Path, help="default: MULTISITE_SPOOL")
    arguments = parser.parse_args()
    spool = Spool(arguments.spool or root("."))
    found = reports(spool) if arguments.status else sync(spool, arguments.timeout)
    print(json.dumps({"jobs": found}))
    return 1 if any(report["pending"] for report in found) and not arguments.status else 0


if __name__ == "__main__":
    sys.exit(main())
