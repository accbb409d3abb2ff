"""One site's rows on their way to its W&B run."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

from multisite.text import clean
from multisite.tracking.backend import Place
from multisite.tracking.client_log import TOO_LARGE, ClientLog
from multisite.tracking.log_reader import LogReader
from multisite.tracking.origin import Origin
from multisite.tracking.records import RecordDamaged, decode
from multisite.tracking.run import Run
from multisite.tracking.troubles import Refusal

LEAST_BATCH_BYTES = 64 * 1024  # a backend that does not take so much in one request is of no use
RETRY_SECONDS = (30.0, 300.0)  # until a run in trouble is tried again: a try takes 20 s, of every site of the job


class SiteRun:
    """A site's log, as far as it is read, its run, and what is wrong with them.

    Attributes:
        run: while it is open.
        id: of the run that is open, or that a writer before this one had open: its last rows may still be under way.
        confirmed: rows that the backend has.
        unconfirmed: of these, the ones of which only the run's summary says so: the backend can't be asked.
        unfinished: the run was opened, and its finish did not come through.
        set_aside: see `files.set_aside_summary`; empty while no record was.
        trouble: why there is no run, or none that takes rows.
        closing: the run's finish, until it is clear what has arrived.
        reopens: the run is wanted, also where nothing is unread.
        progress: when the backend had more rows last, or all of them.
        seen: what the backend has, and since when.
        stream: what W&B's client says of the last run's stream of rows.
        limited: the client waits for the end of a rate limit.
        batch_bytes: as much is sent, and no more until it is confirmed; 0 where there is no such bound.
    """

    def __init__(self, origin: Origin, known: Mapping[str, Any] | None = None, done: bool = False) -> None:
        """
        Args:
            origin: the log.
            known: of `files.writer_status`, what the writer before this one wrote of the site.
            done: nothing of it is under way.
        """
        self.origin = origin
        self.reader = LogReader(origin.log)
        self.run: Run | None = None
        known = known or {}
        self.id: str = "" if done else known.get("id", "")
        self.confirmed: int = known.get("delivered", 0)
        self.unconfirmed: int = known.get("unconfirmed", 0)
        self.set_aside: dict[str, Any] = known.get("set_aside", {})
        self.unfinished: bool = known.get("unfinished", False)
        self.trouble: Refusal | None = None
        self._batches: deque[tuple[int, int]] = deque()  # number of its last record, and its place, of each that is not confirmed
        self.retry_at, self.pause = 0.0, 0.0
        self.closing: Future[int] | None = None
        self.closed_at = 0.0
        self.reopens = self.unfinished
        self.opened_with = 0  # rows that were confirmed when it was opened
        self.progress = time.monotonic()
        self.seen: tuple[Place, float] | None = None
        self.stream: ClientLog | None = None
        self.batch_bytes = 0
        self.limited = False
        self._too_large = 0  # the number of a record that no request can carry
        self._last_bytes = 0  # of the last record that was sent

    @property
    def outstanding(self) -> int:
        """Rows sent and not confirmed."""
        return max(0, self.reader.rows - self.confirmed)

    @property
    def waiting(self) -> bool:
        """Whether it needs a run."""
        return self.reopens or self.reader.unread > 0

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
        """Whether it has a run, or will have one when the rows that are under way have arrived."""
        return self.run is not None or self.closing is not None or (bool(self.id) and not self.trouble)

    def as_dict(self) -> dict[str, Any]:
        """Its part of `writer.json`."""
        content: dict[str, Any] = {"id": self.id, "delivered": self.confirmed}
        if self.unconfirmed:
            content["unconfirmed"] = self.unconfirmed
        if self.set_aside:
            content["set_aside"] = self.set_aside
        if self.unfinished:
            content["unfinished"] = True
        return content

    def stands_still(self, place: Place, seconds: float) -> bool:
        """Whether the backend has had `place`, and nothing more, for so long. Asked again and again."""
        if self.seen is None or self.seen[0] != place:
            self.seen = place, time.monotonic()
        return time.monotonic() - self.seen[1] >= seconds

    def opened(self, run: Run, rows: int) -> None:
        """Goes on with `run`, which has `rows` rows."""
        self._read_again()
        self.reader.skip(rows)
        self.run, self.id, self.trouble, self.reopens = run, run.id, None, False
        self.stream, self.limited = run.stream, False
        self.confirmed = self.opened_with = rows
        self.unfinished = True
        self.progress = time.monotonic()

    def _read_again(self) -> None:
        self.reader = LogReader(self.origin.log)
        self._batches.clear()

    def wait_by_itself(self, trouble: Refusal) -> None:
        """Has no run for a time: twice as long as the last time, unless rows have arrived since."""
        self.pause = min(max(2 * self.pause, RETRY_SECONDS[0]), RETRY_SECONDS[1])
        if self.confirmed > self.opened_with:
            self.pause = 0.0
        self.trouble, self.retry_at = trouble, time.monotonic() + self.pause
        self._read_again()

    def send_less(self) -> bool:
        """After a request that was too large: half as much at once; a record that was alone in it, behind one that was taken, is set aside.

        Returns:
            False where this is no cure: so little was sent, or nothing is taken at all.
        """
        sent, alone = self.outstanding_bytes, self.outstanding == 1 and self._last_bytes > LEAST_BATCH_BYTES
        if alone and self.stream is not None and self.stream.taken and self._too_large != self.confirmed + 1:
            self._too_large = self.confirmed + 1
        elif self.batch_bytes != LEAST_BATCH_BYTES:
            self.batch_bytes = max(LEAST_BATCH_BYTES, min(sent, self.batch_bytes or sent) // 2)
        else:
            return False
        self.trouble, self.retry_at = None, 0.0
        self._read_again()
        return True

    def close(self, pool: Executor, finish: Callable[[Run], int]) -> None:
        """Begins to finish the run: what it holds is sent, then the backend counts everything.

        Args:
            pool: where it is finished.
            finish: finishes it, and returns how many rows the backend has, where only opening the run again can say so; else 0.
        """
        assert self.run is not None
        self.closing = pool.submit(finish, self.run)
        self.run, self.limited, self.closed_at = None, False, 0.0

    def count(self, place: Place, rows: int) -> bool:
        """Takes what the backend has. Returns whether it is more than before."""
        self.stands_still(place, 0)
        if rows <= self.confirmed:
            return False
        self.confirmed, self.progress = min(rows, self.reader.rows), time.monotonic()
        return True

    def send_batch(self, max_bytes: int) -> int:
        """Sends the next records of about `max_bytes` together, or of `batch_bytes`.

        Returns:
            How many; 0 when there is none, or the run takes no more.
        """
        number, start = self.reader.rows, self.reader.offset
        payloads = self.reader.read(self.batch_bytes or max_bytes)
        self.reader.force_to_disk()  # the numbers of rows that W&B has must not be used again
        for payload in payloads:
            number += 1
            try:
                self._send(payload, number)
            except Refusal as refusal:  # this process has the run open, and can't open it again: the next writer goes on
                self.run, self.limited, self.trouble, self.retry_at = None, False, refusal, math.inf
                self._read_again()
                return 0
        if payloads:
            self._batches.append((number, start))
            self._last_bytes = len(payloads[-1])
        return len(payloads)

    def _send(self, payload: bytes, number: int) -> None:
        """Sends record `number`, or sets it aside: then a row stands in its place, so that row n stays line n."""
        assert self.run is not None
        try:
            if number == self._too_large:
                raise RecordDamaged(f"W&B takes no request of its size, {len(payload)} bytes (HTTP {TOO_LARGE})")
            self.run.log(decode(payload), number)
        except RecordDamaged as damaged:
            self.run.set_aside(number)
            if number > self.set_aside.get("last", 0):  # or else a writer before this one has counted it
                first = self.set_aside or {"count": 0, "first": number, "reason": clean(str(damaged))}
                self.set_aside = {**first, "count": first["count"] + 1, "last": number}
