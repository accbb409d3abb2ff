"""Which jobs of a spool are due to be examined. Thousands are kept for days after their end, and nothing happens in them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from multisite.tracking.spool import Job, Spool

SETTLED_SECONDS = 300.0  # within which every settled job is due once
LEAST_SETTLED = 50  # of them each time


class DueJobs:
    """For whoever examines the jobs again and again: every job that is not settled is due each time, and some of the others in turn."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._settled: dict[str, None] = {}  # by id, the one that was due longest ago first
        self._at = time.monotonic()

    def jobs(self, every: bool = False) -> Iterator[Job]:
        """The jobs that are due now.

        Args:
            every: also all that are settled.
        """
        while self.spool.changed:
            self._settled.pop(self.spool.changed.pop(), None)
        now = time.monotonic()
        share = math.ceil(len(self._settled) * (now - self._at) / SETTLED_SECONDS)
        self._at = now
        for job_id in list(self._settled) if every else list(self._settled)[: max(LEAST_SETTLED, share)]:
            del self._settled[job_id]
        for job in self.spool.jobs():
            if job.id not in self._settled:
                yield job

    def settled(self, job: Job) -> None:
        """Nothing is to be done in this job, as long as nobody changes it."""
        self._settled[job.id] = None
