"""From a site's disk to the server's: batches, resent until the server says that they are on its disk.

The server's log of a site is a copy of the first bytes of the site's. Its answer to every message is how many it has, and the next
batch begins there: so a lost message, a lost answer and a restart of either side need no other cure than going on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from multisite.tracking.records import MAGIC, LogReader, LogWriter, RecordRefused, frame, is_open
from multisite.tracking.spool import Job, Origin, Spool, load_json, save_json

BATCH_BYTES = 256 * 1024
RETRY_SECONDS = (0.5, 5.0)  # the first and the longest pause after no answer
DELIVERY_POLL_SECONDS = (2.0, 30.0)  # how often a closed log asks whether its last rows are delivered
ROUTE = "route.json"
NEWS = ("logged", "refused", "closed", "forwards", "delivered", "state", "reason")  # what a site tells with every message
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
    synced: int = 0


class Forwarder:
    """Moves every log of a site's spool; `tick` is called again and again."""

    def __init__(self, spool: Spool, send: Send) -> None:
        self.spool = spool
        self._send = send
        self._passages: dict[tuple[str, str], Passage] = {}
        self._finished: dict[str, tuple[float, ...]] = {}  # jobs that are done with, and how they looked then

    def tick(self) -> bool:
        """Sends at most one batch of every log. Returns whether any log is open or has something unsent."""
        busy = False
        for job in self.spool.jobs():
            if self._finished.get(job.id) == job.signature():
                continue
            passages = [self._passage(job, origin) for origin in job.origins()]
            for passage in passages:
                if passage is not None and not passage.finished:
                    busy |= self._step(passage)
            if passages and all(passage is None or passage.finished for passage in passages):
                self._finished[job.id] = job.signature()
        return busy

    def _passage(self, job: Job, origin: Origin) -> Passage | None:
        key = (job.id, origin.name)
        if key not in self._passages:
            route = load_json(origin.folder / ROUTE)
            if not route:
                return None
            passage = Passage(job, origin, bool(route["forwards"]), LogReader(origin.log))
            passage.finished = (origin.folder / DONE).exists()
            self._passages[key] = passage
        return self._passages[key]

    def _step(self, passage: Passage) -> bool:
        now = time.monotonic()
        if now < passage.retry_at:
            return passage.poll == DELIVERY_POLL_SECONDS[0]
        closed = not is_open(passage.origin.log)  # before the count: what is logged after it comes with the next message
        account = passage.origin.account(passage.job.delivered().get(passage.origin.name, 0))
        start, data = passage.reader.offset, b""
        if passage.known and passage.forwards:
            data = b"".join(frame(payload) for payload in passage.reader.read(BATCH_BYTES))
            self._force_to_disk(passage)
        writer = load_json(passage.job.writer_file)
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
                return True
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
        problem = "the server does not answer" if answer is None else str(answer.get("error", ""))
        if problem and problem != passage.problem:
            logger.warning("metrics of job %s wait on this site, nothing is lost: %s", passage.job.id, problem)
        elif passage.problem and not problem:
            logger.info("metrics of job %s are on their way again", passage.job.id)
        passage.problem = problem
        if problem:
            passage.retry_at = time.monotonic() + passage.pause
            passage.pause = min(passage.pause * 2, RETRY_SECONDS[1])
            return None
        passage.retry_at, passage.pause = 0.0, RETRY_SECONDS[0]
        return answer

    @staticmethod
    def _heed(passage: Passage, answer: dict[str, Any], news: dict[str, Any]) -> None:
        passage.known, passage.told = True, news
        size = int(answer["size"])
        if passage.forwards and size != passage.reader.offset:
            passage.reader = LogReader(passage.origin.log)
            while passage.reader.offset < size and passage.reader.read(min(BATCH_BYTES, size - passage.reader.offset)):
                pass
        if not news["closed"] or (passage.reader.unread and passage.forwards):
            return
        delivered = int(answer.get("delivered", 0)) if passage.forwards else int(news["delivered"])
        if delivered >= news["logged"]:
            save_json(passage.origin.folder / DONE, {"delivered": delivered, "time": time.time()})
            passage.finished = True
        else:
            passage.retry_at = time.monotonic() + passage.poll
            passage.poll = min(passage.poll * 1.5, DELIVERY_POLL_SECONDS[1])


class Intake:
    """The server's end: puts each batch on the disk, then answers how much is there."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._logs: dict[tuple[str, str], LogWriter] = {}
        self._lock = threading.Lock()

    def take(self, site: str, message: dict[str, Any]) -> dict[str, Any]:
        """Handles one message of the authenticated `site`.

        Returns:
            `size` (bytes of the log here) and `delivered` (rows that W&B confirmed), or `error`.
        """
        try:
            job = self.spool.job(str(message["job"]))
            origin = job.origin(site)
            if site in ("", "server"):
                raise ValueError(f"{site!r} is no site")
            self._note(origin, message)
            if not message["forwards"]:
                return {"size": len(MAGIC), "delivered": int(message["delivered"])}
            with self._lock:
                log = self._logs.get((job.id, site)) or self._logs.setdefault((job.id, site), LogWriter(origin.log))
            if message["data"]:
                log.extend(int(message["offset"]), message["data"])
            answer = {"size": log.size, "delivered": job.delivered().get(site, 0)}
            if message["closed"] and log.rows >= int(message["logged"]):
                with self._lock:
                    self._logs.pop((job.id, site), log).close()
            return answer
        except RecordRefused as refused:
            return {"error": f"the server's disk did not take them: {refused}"}
        except (KeyError, TypeError, ValueError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    @staticmethod
    def _note(origin: Origin, message: dict[str, Any]) -> None:
        news = {name: message[name] for name in NEWS}
        if load_json(origin.told) != news:
            try:
                save_json(origin.told, news)
            except OSError as error:
                raise RecordRefused(f"{origin.told}: {error.strerror}") from None
