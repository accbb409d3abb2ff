"""From a site's disk to the server's: batches, resent until the server acknowledges that they are on its disk.

The server's log of a site is a copy of the first bytes of the site's. Its answer to every message is how many it has, and the next
batch begins there: so a lost message, a lost answer and a restart of either side need no other cure than going on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from multisite.text import clean
from multisite.tracking.due_jobs import DueJobs
from multisite.tracking.files import COUNT, Damaged, read_json, route, save_json, whole
from multisite.tracking.frames import frame
from multisite.tracking.log_reader import LogReader
from multisite.tracking.origin import Origin
from multisite.tracking.records import is_open
from multisite.tracking.spool import Job, Spool

BATCH_BYTES = 256 * 1024
ASK_NOW = 0.001  # a time for `retry_at` that is past, and not the 0 of an upload that waits for nothing
RETRY_SECONDS = (0.5, 5.0)  # the first and the longest pause after no answer
DELIVERY_POLL_SECONDS = (2.0, 30.0)  # how often a closed log asks whether its last rows are delivered
UNKNOWN_SECONDS = 600.0  # how often the server is asked about a job that it did not know
ROUTE = "route.json"
DONE = "done.json"

Send = Callable[[dict[str, Any]], "dict[str, Any] | None"]  # a message to the server -> its answer, None if there was none

logger = logging.getLogger("multisite.tracking")


@dataclass
class LogUpload:
    """One site's log of one job, and how much of it the server has."""

    job: Job
    origin: Origin
    forwards: bool
    reader: LogReader
    known: bool = False  # whether the server has answered how much it has
    acknowledged: dict[str, Any] = field(default_factory=dict)
    retry_at: float = 0.0
    pause: float = RETRY_SECONDS[0]
    poll: float = DELIVERY_POLL_SECONDS[0]
    problem: str = ""
    finished: bool = False
    unknown: bool = False  # the server has no such job
    more: int = 0  # records that the server's copy has and this log has not: of damaged bytes it may know how many they were


class Forwarder:
    """Moves every log of a site's spool; `tick` is called again and again."""

    def __init__(self, spool: Spool, send: Send) -> None:
        self.spool = spool
        self._send = send
        self._uploads: dict[tuple[str, str], LogUpload] = {}
        self._due_jobs = DueJobs(spool)
        self._waits: dict[str, float] = {}  # jobs with nothing to send: until when they are left alone
        self._finished: dict[str, tuple[float, ...]] = {}  # jobs that are done with, and how they looked then
        self._problems: dict[str, str] = {}  # of jobs whose files are not what they must be
        self._asked = spool.sync_requested()

    def tick(self) -> bool:
        """Sends at most one batch of every log. Returns whether any log is open or has something unsent."""
        busy = False
        if again := self._asked != (asked := self.spool.sync_requested()):
            self._asked = asked
            self._waits.clear()
            for upload in self._uploads.values():
                if upload.unknown:
                    upload.retry_at = ASK_NOW
        for job in self._due_jobs.jobs(every=again):
            try:
                busy |= self._tick_job(job)
            except Exception as error:  # of this job's files, or of one answer: every other job goes on
                self._log_problem(job, f"{type(error).__name__}: {error}")
        return busy

    def _tick_job(self, job: Job) -> bool:
        if time.monotonic() < self._waits.get(job.id, 0.0):
            return False
        if self._finished.get(job.id) == job.signature():
            self._due_jobs.settled(job)
            return False
        busy = False
        looked_at = job.signature()  # before the steps: what is logged after them is a change
        uploads = [self._upload(job, origin) for origin in job.origins()]
        for upload in uploads:
            if not upload.finished:
                busy |= self._step(upload)
        if uploads and all(upload.finished for upload in uploads):
            self._finished[job.id] = looked_at
            self._due_jobs.settled(job)
            for upload in uploads:
                del self._uploads[(job.id, upload.origin.name)]
            self._waits.pop(job.id, None)
        elif uploads and not busy:
            self._waits[job.id] = min(upload.retry_at for upload in uploads if not upload.finished)
        return busy

    def _log_problem(self, job: Job, problem: str) -> None:
        if self._problems.get(job.id) != problem:
            self._problems[job.id] = problem
            logger.warning("metrics of job %s stay on this site: %s; next: mend or delete %s", job.id, clean(problem), job.folder)

    @staticmethod
    def _read_route(job: Job, origin: Origin) -> dict[str, Any]:
        """Where the log goes. Without its file (a power cut) to the server, unless it is delivered from here."""
        found, problem = read_json(origin.folder / ROUTE, route)
        if not found:
            found = {"forwards": not job.settings_file.exists()}
            way = "go to the server" if found["forwards"] else f"are delivered from here: there is a {job.settings_file.name}"
            logger.warning("metrics of job %s, %s: %s; they %s", job.id, origin.name, problem or f"no {ROUTE}", way)
        return found

    def _upload(self, job: Job, origin: Origin) -> LogUpload:
        key = (job.id, origin.name)
        if key not in self._uploads:
            found = self._read_route(job, origin)
            upload = LogUpload(job, origin, found["forwards"], LogReader(origin.log, origin.name))
            upload.finished = _is_done(origin)
            self._uploads[key] = upload
        return self._uploads[key]

    def _step(self, upload: LogUpload) -> bool:
        now = time.monotonic()
        if now < upload.retry_at:
            return upload.poll == DELIVERY_POLL_SECONDS[0] and not upload.unknown
        closed = not is_open(upload.origin.log)  # before the count: what is logged after it comes with the next message
        account = upload.origin.account(upload.job.runs().get(upload.origin.name, {}))
        start, data = upload.reader.offset, b""
        if upload.known and upload.forwards:
            data = b"".join(frame(payload) for payload in upload.reader.read(BATCH_BYTES))
            if data:
                upload.reader.force_to_disk()
        writer = upload.job.writer_status()
        status = {  # what goes with the data; `files.site_status` checks it on the server
            "logged": account.logged + upload.more,
            "refused": account.refused,
            "closed": closed,
            "forwards": upload.forwards,
            "delivered": account.delivered,
            "state": writer.get("state", ""),
            "reason": writer.get("reason", ""),
        }
        if data or not upload.known or status != upload.acknowledged or upload.retry_at:
            answer = self._ask(upload, start, data, status)
            if answer is None:
                upload.reader.offset = start
                return not upload.unknown
            self._apply_answer(upload, answer, status)
        return not closed or bool(data) or upload.reader.unread > 0

    def _ask(self, upload: LogUpload, start: int, data: bytes, status: dict[str, Any]) -> dict[str, Any] | None:
        answer = self._send({"job": upload.job.id, "offset": start, "data": data, **status})
        problem = "the server does not answer" if answer is None else str(answer.get("error", "")) or _malformed(answer)
        if answer is not None and not problem:
            problem = _misplaced(upload, answer)
        upload.unknown = bool(answer and answer.get("unknown"))
        if problem and problem != upload.problem:
            then = f"; next: restore the job there, or delete {upload.job.folder} here" if upload.unknown else ""
            logger.warning("metrics of job %s wait on this site, nothing is lost: %s%s", upload.job.id, clean(problem), then)
        elif upload.problem and not problem:
            logger.info("metrics of job %s are on their way again", upload.job.id)
        upload.problem = problem
        if problem:
            upload.retry_at = time.monotonic() + (UNKNOWN_SECONDS if upload.unknown else upload.pause)
            upload.pause = min(upload.pause * 2, RETRY_SECONDS[1])
            return None
        upload.retry_at, upload.pause = 0.0, RETRY_SECONDS[0]
        return answer

    @staticmethod
    def _apply_answer(upload: LogUpload, answer: dict[str, Any], status: dict[str, Any]) -> None:
        upload.known, upload.acknowledged = True, status
        if answer.get("freed"):
            _mark_done(upload, answer["delivered"])
            return
        if not status["closed"] or (upload.reader.unread and upload.forwards):
            return
        if upload.forwards:
            upload.more += answer["rows"] - status["logged"]
        delivered = int(answer["delivered"]) if upload.forwards else int(status["delivered"])
        if delivered >= status["logged"]:
            _mark_done(upload, delivered)
        else:
            upload.retry_at = time.monotonic() + upload.poll
            upload.poll = min(upload.poll * 1.5, DELIVERY_POLL_SECONDS[1])


def _malformed(answer: dict[str, Any]) -> str:
    """What is wrong with an answer; empty if nothing."""
    try:
        for name in ("size", "rows", "delivered"):
            whole(answer, name)
    except Damaged as damaged:
        return f"the server's answer can't be used: {damaged}"
    return ""


def _misplaced(upload: LogUpload, answer: dict[str, Any]) -> str:
    """Sets the reader to where the server's copy ends; why that is not possible, if it is not."""
    if answer.get("freed") or not upload.forwards or answer["size"] == upload.reader.offset:
        return ""
    upload.reader = LogReader(upload.origin.log, upload.origin.name)
    if upload.reader.go_to(answer["size"]):
        return ""
    return (
        f"the server has {answer['size']} bytes of {upload.origin.log}, and no record begins there; next: look at this site's disk"
    )


def _is_done(origin: Origin) -> bool:
    """Whether its log was delivered to its end. One that has grown since is not done any more."""
    done = origin.folder / DONE
    if not done.exists():
        return False
    delivered = read_json(done, lambda content: {"delivered": whole(content, "delivered")})[0].get("delivered", COUNT)
    if origin.rows() > delivered:
        done.unlink()
        return False
    return True


def _mark_done(upload: LogUpload, delivered: int) -> None:
    save_json(upload.origin.folder / DONE, {"delivered": delivered, "time": time.time()}, durable=True)
    upload.finished = True
