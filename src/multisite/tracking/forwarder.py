"""From a site's disk to the server's: batches, resent until the server says that they are on its disk.

The server's log of a site is a copy of the first bytes of the site's. Its answer to every message is how many it has, and the next
batch begins there: so a lost message, a lost answer and a restart of either side need no other cure than going on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from multisite.text import clean
from multisite.tracking.files import Damaged, read_json, route, save_json, whole
from multisite.tracking.records import LogReader, frame, is_open
from multisite.tracking.spool import Job, Origin, Spool

BATCH_BYTES = 256 * 1024
ASK_NOW = 0.001  # a time for `retry_at` that is past, and not the 0 of a passage that waits for nothing
RETRY_SECONDS = (0.5, 5.0)  # the first and the longest pause after no answer
DELIVERY_POLL_SECONDS = (2.0, 30.0)  # how often a closed log asks whether its last rows are delivered
UNKNOWN_SECONDS = 600.0  # how often the server is asked about a job that it did not know
ROUTE = "route.json"
DONE = "done.json"

Send = Callable[[dict[str, Any]], "dict[str, Any] | None"]  # a message to the server -> its answer, None if there was none

logger = logging.getLogger("multisite.tracking")


@dataclass
class Passage:
    """One log on its way."""

    job: Job
    origin: Origin
    forwards: bool
    reader: LogReader
    known: bool = False  # whether the server has said how much it has
    told: dict[str, Any] = field(default_factory=dict)
    retry_at: float = 0.0
    pause: float = RETRY_SECONDS[0]
    poll: float = DELIVERY_POLL_SECONDS[0]
    problem: str = ""
    finished: bool = False
    unknown: bool = False  # the server has no such job
    synced: int = 0


class Forwarder:
    """Moves every log of a site's spool; `tick` is called again and again."""

    def __init__(self, spool: Spool, send: Send) -> None:
        self.spool = spool
        self._send = send
        self._passages: dict[tuple[str, str], Passage] = {}
        self._finished: dict[str, tuple[float, ...]] = {}  # jobs that are done with, and how they looked then
        self._problems: dict[str, str] = {}  # of jobs whose files are not what they must be
        self._asked = spool.sync_requested()

    def tick(self) -> bool:
        """Sends at most one batch of every log. Returns whether any log is open or has something unsent."""
        busy = False
        if self._asked != (asked := self.spool.sync_requested()):
            self._asked = asked
            for passage in self._passages.values():
                if passage.unknown:
                    passage.retry_at = ASK_NOW
        for job in self.spool.jobs():
            try:
                busy |= self._tick_job(job)
            except Exception as error:  # of this job's files, or of one answer: every other job goes on
                self._say_problem(job, f"{type(error).__name__}: {error}")
        return busy

    def _tick_job(self, job: Job) -> bool:
        if self._finished.get(job.id) == job.signature():
            return False
        busy = False
        passages = [self._passage(job, origin) for origin in job.origins()]
        for passage in passages:
            if passage is not None and not passage.finished:
                busy |= self._step(passage)
        if passages and all(passage is not None and passage.finished for passage in passages):
            self._finished[job.id] = job.signature()
        return busy

    def _say_problem(self, job: Job, problem: str) -> None:
        if self._problems.get(job.id) != problem:
            self._problems[job.id] = problem
            logger.warning("metrics of job %s stay on this site: %s; next: mend or delete %s", job.id, clean(problem), job.folder)

    def _passage(self, job: Job, origin: Origin) -> Passage | None:
        key = (job.id, origin.name)
        if key not in self._passages:
            way, problem = read_json(origin.folder / ROUTE, route)
            if problem:
                self._say_problem(job, f"{origin.name}: {problem}")
            if not way:
                return None
            passage = Passage(job, origin, way["forwards"], LogReader(origin.log))
            passage.finished = (origin.folder / DONE).exists()
            self._passages[key] = passage
        return self._passages[key]

    def _step(self, passage: Passage) -> bool:
        now = time.monotonic()
        if now < passage.retry_at:
            return passage.poll == DELIVERY_POLL_SECONDS[0] and not passage.unknown
        closed = not is_open(passage.origin.log)  # before the count: what is logged after it comes with the next message
        account = passage.origin.account(passage.job.runs().get(passage.origin.name, {}))
        start, data = passage.reader.offset, b""
        if passage.known and passage.forwards:
            data = b"".join(frame(payload) for payload in passage.reader.read(BATCH_BYTES))
            self._force_to_disk(passage)
        writer = passage.job.writer_word()
        news = {
            "logged": account.logged,
            "refused": account.refused,
            "closed": closed,
            "forwards": passage.forwards,
            "delivered": account.delivered,
            "state": writer.get("state", ""),
            "reason": writer.get("reason", ""),
        }
        if data or not passage.known or news != passage.told or passage.retry_at:
            answer = self._ask(passage, start, data, news)
            if answer is None:
                passage.reader.offset = start
                return not passage.unknown
            self._heed(passage, answer, news)
        return not closed or bool(data) or passage.reader.unread > 0

    @staticmethod
    def _force_to_disk(passage: Passage) -> None:
        """What the server has acknowledged must be here after a power cut too, or the two logs would differ."""
        if passage.synced < passage.reader.offset:
            descriptor = os.open(passage.origin.log, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            passage.synced = passage.reader.offset

    def _ask(self, passage: Passage, start: int, data: bytes, news: dict[str, Any]) -> dict[str, Any] | None:
        answer = self._send({"job": passage.job.id, "offset": start, "data": data, **news})
        problem = "the server does not answer" if answer is None else str(answer.get("error", "")) or _malformed(answer)
        passage.unknown = bool(answer and answer.get("unknown"))
        if problem and problem != passage.problem:
            then = f"; next: restore the job there, or delete {passage.job.folder} here" if passage.unknown else ""
            logger.warning("metrics of job %s wait on this site, nothing is lost: %s%s", passage.job.id, clean(problem), then)
        elif passage.problem and not problem:
            logger.info("metrics of job %s are on their way again", passage.job.id)
        passage.problem = problem
        if problem:
            passage.retry_at = time.monotonic() + (UNKNOWN_SECONDS if passage.unknown else passage.pause)
            passage.pause = min(passage.pause * 2, RETRY_SECONDS[1])
            return None
        passage.retry_at, passage.pause = 0.0, RETRY_SECONDS[0]
        return answer

    @staticmethod
    def _heed(passage: Passage, answer: dict[str, Any], news: dict[str, Any]) -> None:
        passage.known, passage.told = True, news
        if answer.get("freed"):
            _mark_done(passage, answer["delivered"])
            return
        size = answer["size"]
        if passage.forwards and size != passage.reader.offset:
            passage.reader = LogReader(passage.origin.log)
            while passage.reader.offset < size and passage.reader.read(min(BATCH_BYTES, size - passage.reader.offset)):
                pass
        if not news["closed"] or (passage.reader.unread and passage.forwards):
            return
        delivered = int(answer["delivered"]) if passage.forwards else int(news["delivered"])
        if delivered >= news["logged"]:
            _mark_done(passage, delivered)
        else:
            passage.retry_at = time.monotonic() + passage.poll
            passage.poll = min(passage.poll * 1.5, DELIVERY_POLL_SECONDS[1])


def _malformed(answer: dict[str, Any]) -> str:
    """What is wrong with an answer; empty if nothing."""
    try:
        whole(answer, "size")
        whole(answer, "delivered")
    except Damaged as damaged:
        return f"the server's answer can't be used: {damaged}"
    return ""


def _mark_done(passage: Passage, delivered: int) -> None:
    save_json(passage.origin.folder / DONE, {"delivered": delivered, "time": time.time()})
    passage.finished = True
