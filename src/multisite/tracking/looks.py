"""Which jobs of a spool are looked at now. Thousands are kept for days after their end, and nothing happens in them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from multisite.tracking.spool import Job, Spool

SETTLED_SECONDS = 300.0  # within which every settled job is looked at
LEAST_SETTLED = 50  # of them at once


class Looks:
    """For one who looks at the jobs again and again: at every job that is not settled, and at some of the others in turn."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._settled: dict[str, None] = {}  # by id, in the order of their last look
        self._at = time.monotonic()

    def jobs(self, every: bool = False) -> Iterator[Job]:
        """The jobs to look at now.

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
        """After a look: nothing is to be done in this job, as long as nobody changes it."""
        self._settled[job.id] = None
