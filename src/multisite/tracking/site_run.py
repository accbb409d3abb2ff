"""One site's rows on their way to its W&B run."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from multisite.text import clean
from multisite.tracking.backend import Place, Run
from multisite.tracking.log_reader import LogReader
from multisite.tracking.records import RecordDamaged, decode
from multisite.tracking.spool import Origin
from multisite.tracking.troubles import Refusal


class SiteRun:
    """A site's log, as far as it is read, its run, and what is wrong with them."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.reader = LogReader(origin.log)
        self.run: Run | None = None
        self.confirmed = 0
        self._batches: deque[tuple[int, int]] = deque()  # number of its last record, and its place, of each that is not confirmed
        self.set_aside: dict[str, Any] = {}  # see `files.set_aside_summary`; empty while no record was
        self.trouble: Refusal | None = None  # why there is no run
        self.retry_at, self.pause = 0.0, 0.0
        self.id = ""  # of the run that is open, or that a writer before this one had open: its last rows may still be under way
        self.seen: tuple[Place, float] | None = None  # what the backend has, and since when

    @property
    def outstanding(self) -> int:
        """Rows sent and not confirmed."""
        return self.reader.rows - self.confirmed if self.run else 0

    @property
    def outstanding_bytes(self) -> int:
        """Of the records sent and not confirmed."""
        while self._batches and self._batches[0][0] <= self.confirmed:
            self._batches.popleft()
        return self.reader.offset - self._batches[0][1] if self._batches else 0

    @property
    def note(self) -> str:
        """What people should know of this site; empty if nothing."""
        if self.trouble:
            return f"{self.origin.name} waits: {self.trouble}"
        if self.set_aside:
            return f"{self.origin.name}: {self.set_aside['count']} records set aside, first number {self.set_aside['first']}: {self.set_aside['reason']}"
        return ""

    @property
    def goes_on(self) -> bool:
        """Whether it has a run, or will have one when the rows of the writer before this one have arrived."""
        return self.run is not None or (bool(self.id) and not self.trouble)

    def stands_still(self, place: Place, seconds: float) -> bool:
        """Whether the backend has had `place`, and nothing more, for so long. Asked again and again."""
        if self.seen is None or self.seen[0] != place:
            self.seen = place, time.monotonic()
        return time.monotonic() - self.seen[1] >= seconds

    def send_batch(self, max_bytes: int) -> int:
        """Sends the next records of about `max_bytes` together. Returns how many; 0 when there is none, or the run takes no more."""
        number, start = self.reader.rows, self.reader.offset
        payloads = self.reader.read(max_bytes)
        self.reader.force_to_disk()  # the numbers of rows that W&B has must not be used again
        for payload in payloads:
            number += 1
            try:
                self._send(payload, number)
            except Refusal as refusal:  # this process has the run open, and can't open it again: the next writer goes on
                self.run, self.trouble, self.retry_at = None, refusal, math.inf
                return 0
        if payloads:
            self._batches.append((number, start))
        return len(payloads)

    def _send(self, payload: bytes, number: int) -> None:
        """Sends record `number`, or sets it aside: then a row stands in its place, so that row n stays line n."""
        assert self.run is not None
        try:
            self.run.log(decode(payload), number)
        except RecordDamaged as damaged:
            self.run.set_aside(number)
            if number > self.set_aside.get("last", 0):  # or else a writer before this one has counted it
                first = self.set_aside or {"count": 0, "first": number, "reason": clean(str(damaged))}
                self.set_aside = {**first, "count": first["count"] + 1, "last": number}
