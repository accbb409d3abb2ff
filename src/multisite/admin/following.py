"""What whoever follows a job gets to know, from each of NVFlare's looks at its status (FLARE API, `Session.monitor_job`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session

from multisite.job import progress

RUNNING = "RUNNING"
STATS_SECONDS = 1.0
STATS_TIMEOUT_SECONDS = 1.5  # NVFlare's own is 5 s: the results of a job that was ending would wait for its answer
ALIVE_SECONDS = 20.0


class Follower:
    """Of one job.

    Attributes:
        status: the last one that was reported.
        shown: how many of the sites' rows were reported.
    """

    def __init__(self, emit: Callable[..., None]) -> None:
        self.status, self.shown = "", 0
        self._emit = emit
        self._asked = float("-inf")
        self._spoke = time.monotonic()

    def look(self, flare: Session, job_id: str, meta: dict[str, Any]) -> bool:
        """NVFlare's callback, after each look at the job's metadata."""
        status = str(meta.get("status", ""))
        if status != self.status:
            self.status = status
            self._emit("status", status=status)
        now = time.monotonic()
        if status == RUNNING and now - self._spoke >= ALIVE_SECONDS:  # a round may be long
            self._spoke = now
            self._emit("alive", status=status)
        if status == RUNNING and now - self._asked >= STATS_SECONDS:
            self._asked = now
            self._report(stats(flare, job_id))
        return True

    def _report(self, snapshot: dict[str, Any] | None) -> None:
        rows = snapshot.get("rows", []) if snapshot else []
        for row in rows[self.shown :]:
            self._emit("report", row=row, **{name: (snapshot or {})[name] for name in ("round", "rounds", "started")})
        self.shown = max(self.shown, len(rows))


def stats(flare: Session, job_id: str) -> dict[str, Any] | None:
    """The reporter's snapshot from NVFlare's job stats; None while the job has none to give.

    A job process that is starting or ending answers nothing, and NVFlare reports that as `NoConnection` to the server.
    Whether the server itself is gone, the next look at the job's status says.
    """
    flare.set_timeout(STATS_TIMEOUT_SECONDS)
    try:
        answer = flare.show_stats(job_id, "server")
    except Exception as error:
        print(f"no stats now: {error}", file=sys.stderr)
        return None
    finally:
        flare.unset_timeout()
    server = answer.get("server") if isinstance(answer, dict) else None
    return server.get(progress.STATS_GROUP) if isinstance(server, dict) else None
