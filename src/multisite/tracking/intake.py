"""The server's side: what sites send is checked, bounded, and put on the disk before the answer.

Whoever holds one site's kit is the sender to think of. A message is taken whole or refused by name; a job that the server does not
know leaves nothing; what one site keeps here has a bound over all its jobs.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multisite.text import clean
from multisite.tracking.files import (
    COUNT,
    NAME,
    NAME_SHOWN,
    Damaged,
    changed_at,
    folders,
    load_json,
    read_json,
    refusals,
    save_json,
    site_status,
    size_of,
    whole,
)  # fmt: skip
from multisite.tracking.frames import HEAD, MAGIC, MAX_RECORD_BYTES, MIN_RECORD_BYTES
from multisite.tracking.records import LogWriter, RecordRefused
from multisite.tracking.spool import SERVER, Job, Spool

SITE_MB, SITE_JOBS = 2000, 1000  # the defaults of METRICS_SITE_MB and METRICS_SITE_JOBS
MB = 1_000_000
OPEN_LOGS = 16  # of one site at a time
KNOWN_JOBS = 10_000  # that are remembered to be known
USAGE_SECONDS = 60.0  # after which what a site keeps is counted anew
REFUSAL_SECONDS = 10.0  # between two notes of the same refusal of the same site
UNKNOWN_JOB = "unknown job"
STATUS_FIELDS = ("logged", "refused", "closed", "forwards", "delivered", "state", "reason")
FIELDS = ("job", "offset", "data", *STATUS_FIELDS)

Knows = Callable[[str], bool]  # a job's id -> whether the server has such a job

logger = logging.getLogger("multisite.tracking")


class Refused(Exception):
    """A message is not taken; nothing of it was written. `code` names the kind of refusal, the message is for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Limits:
    """What one site may keep on the server, over all jobs."""

    megabytes: int = SITE_MB
    jobs: int = SITE_JOBS

    @classmethod
    def load(cls) -> Limits:
        """From METRICS_SITE_MB and METRICS_SITE_JOBS; what is no whole number from 1 is said, and the default holds."""
        return cls(_setting("METRICS_SITE_MB", SITE_MB), _setting("METRICS_SITE_JOBS", SITE_JOBS))

    @property
    def bytes(self) -> int:
        """Of all record logs."""
        return self.megabytes * MB

    @property
    def records(self) -> int:
        """More than so many can't be in them."""
        return min(COUNT, self.bytes // (HEAD.size + MIN_RECORD_BYTES))


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= 10**9:
        return int(text)
    logger.error(
        "%s must be a whole number from 1 to 1000000000, not %.20r; %d holds; next: correct it in .env, make up",
        name,
        text,
        default,
    )
    return default


def checked_message(message: Any, limits: Limits) -> tuple[dict[str, Any], str, int, bytes]:
    """The status of the site's log, the job's id, and the batch: where it begins, and its bytes.

    Raises:
        Refused: a field is missing, not known, of another type, or out of range.
    """
    try:
        if not isinstance(message, dict):
            raise Damaged("the message must be an object")
        for field_ in FIELDS:
            if field_ not in message:
                raise Damaged(f"{field_} is missing")
        if len(message) > len(FIELDS):
            extra = next(field_ for field_ in message if field_ not in FIELDS)
            raise Damaged(f"{clean(str(extra), NAME_SHOWN)!r} is no field")
        job, offset, data = message["job"], whole(message, "offset"), message["data"]
        if not isinstance(job, str) or not NAME.fullmatch(job):
            raise Damaged("job must be a job's id")
        if not isinstance(data, bytes) or len(data) > HEAD.size + MAX_RECORD_BYTES:
            raise Damaged(f"data must be bytes, {HEAD.size + MAX_RECORD_BYTES} at most")
        status = site_status({name: message[name] for name in STATUS_FIELDS})
        if status["logged"] > limits.records:
            raise Damaged(f"logged must be at most {limits.records}: METRICS_SITE_MB={limits.megabytes} can't hold more records")
    except Damaged as damaged:
        raise Refused("message", f"a malformed message: {damaged}") from None
    return status, job, offset, data


@dataclass
class Sender:
    """One site: what it keeps here, and its logs that are open, the one that was used last at the end."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    logs: OrderedDict[str, LogWriter] = field(default_factory=OrderedDict)
    jobs: set[str] = field(default_factory=set)
    bytes: int = 0
    counted_at: float | None = None

    def open(self, job: str, path: Path) -> LogWriter:
        """The site's log of a job. Of more than OPEN_LOGS, the one that was used longest ago is closed.

        Raises:
            OSError, RecordRefused: it can't be opened.
        """
        if job not in self.logs:
            self.logs[job] = LogWriter(path)
        self.logs.move_to_end(job)
        if len(self.logs) > OPEN_LOGS:
            self.logs.popitem(last=False)[1].close()
        return self.logs[job]

    def close(self, job: str) -> None:
        """Closes the log of a job."""
        if job in self.logs:
            self.logs.pop(job).close()

    def count(self, root: Path, site: str) -> None:
        """Counts what it keeps, now and then: jobs are also deleted."""
        if self.counted_at is not None and time.monotonic() - self.counted_at < USAGE_SECONDS:
            return
        kept = [folder for folder in folders(root) if (folder / site).is_dir()]
        self.jobs = {folder.name for folder in kept}
        self.bytes = sum(size_of(folder / site / "records.log") for folder in kept)
        self.counted_at = time.monotonic()


class Intake:
    """Puts each batch on the disk, then answers how much is there."""

    def __init__(self, spool: Spool, knows: Knows, limits: Limits | None = None) -> None:
        """
        Args:
            spool: the server's.
            knows: whether the server has a job of that id. It is not asked again of a job that it knew.
            limits: of one site; default: the environment's.
        """
        self.spool = spool
        self.limits = limits or Limits.load()
        self._knows = knows
        self._known: set[str] = set()
        self._freed: tuple[float, dict[str, Any]] = (0.0, {})
        self._senders: dict[str, Sender] = {}
        self._refusals = read_json(spool.refusals_file, refusals)[0]
        self._lock = threading.Lock()

    def take(self, site: str, message: Any) -> dict[str, Any]:
        """Handles one message of the authenticated `site`.

        Returns:
            `size` and `rows` (bytes and records of the log here), `delivered` (rows that W&B confirmed); `freed` where that is only remembered; or
            `error`, and `unknown` where it will not change soon.
        """
        if not NAME.fullmatch(site) or site == SERVER:
            return {"error": f"{clean(site, NAME_SHOWN)!r} is no site"}
        with self._lock:
            sender = self._senders.setdefault(site, Sender())
        try:
            with sender.lock:  # its forwarder sends one message at a time, and no other site waits for it
                return self._take(site, sender, message)
        except Refused as refused:
            self._note_refusal(site, refused.code, str(refused))
            return {"error": str(refused), **({"unknown": True} if refused.code == UNKNOWN_JOB else {})}
        except RecordRefused as refused:
            reason = f"the server's disk did not take them: {refused}"
        except Exception as error:  # whatever it is, the site gets an answer, and tries again
            reason = f"the server failed: {type(error).__name__}: {clean(str(error))}"
        self._note_refusal(site, "server", reason)
        return {"error": reason}

    def close(self) -> None:
        """Closes every log: another process may take in from now on."""
        for sender in self._senders.values():
            for job in list(sender.logs):
                sender.close(job)

    def _take(self, site: str, sender: Sender, message: Any) -> dict[str, Any]:
        status, name, offset, data = checked_message(message, self.limits)
        if not (self.spool.root / name).is_dir():
            if answer := self._answer_of_freed(name, site, status["logged"]):
                return answer
            if not self._has_job(name):
                raise Refused(UNKNOWN_JOB, f"the server knows no job {name}")
        self._check_limits(site, sender, name, data)
        job = Job(self.spool.root / name)
        origin = job.origin(site)
        if load_json(origin.site_json) != status:
            try:
                save_json(origin.site_json, status, durable=status["closed"])  # an open log's is soon replaced
            except OSError as error:
                raise RecordRefused(f"{origin.site_json}: {error.strerror}") from None
        sender.jobs.add(name)
        self.spool.changed.add(name)
        if not status["forwards"]:
            return {"size": len(MAGIC), "rows": 0, "delivered": status["delivered"]}
        log = sender.open(name, origin.log)
        if data:
            before = log.size
            log.extend(offset, data)
            sender.bytes += log.size - before
        answer = {"size": log.size, "rows": log.rows, "delivered": job.delivered().get(site, 0)}
        if status["closed"] and log.rows >= status["logged"]:
            sender.close(name)
        return answer

    def _has_job(self, name: str) -> bool:
        if name in self._known:
            return True
        if not self._knows(name):
            return False
        if len(self._known) >= KNOWN_JOBS:
            self._known.clear()
        self._known.add(name)
        return True

    def _answer_of_freed(self, name: str, site: str, logged: int) -> dict[str, Any]:
        """For a site that comes back to a job whose records were delivered and deleted; empty if it is none."""
        changed = changed_at(self.spool.freed_file)
        if changed != self._freed[0]:
            self._freed = (changed, load_json(self.spool.freed_file))
        sites = self._freed[1].get(name)
        if not isinstance(sites, dict):
            return {}
        delivered = sites.get(site, 0)
        if not isinstance(delivered, int) or logged > delivered:
            raise Refused(
                UNKNOWN_JOB, f"the server delivered job {name} with {delivered} records of {site}, and keeps none any more"
            )
        return {"size": len(MAGIC), "rows": 0, "delivered": delivered, "freed": True}

    def _check_limits(self, site: str, sender: Sender, name: str, data: bytes) -> None:
        sender.count(self.spool.root, site)
        if name not in sender.jobs and len(sender.jobs) >= self.limits.jobs:
            kept = f"metrics of {len(sender.jobs)} jobs on the server, as many as METRICS_SITE_JOBS allows"
            raise Refused("jobs", f"{site} has {kept}; next: make sync, or a larger number in .env and make up")
        if data and sender.bytes + len(data) > self.limits.bytes:
            kept = f"{sender.bytes / MB:.1f} MB of metrics on the server, as much as METRICS_SITE_MB allows"
            raise Refused("megabytes", f"{site} has {kept}; next: make sync, or a larger number in .env and make up")

    def _note_refusal(self, site: str, code: str, reason: str) -> None:
        """Keeps it for `make status`, and says it in the log; each kind of each site now and then, however many there are."""
        with self._lock:
            known = self._refusals.setdefault(site, {}).setdefault(code, {"count": 0, "time": 0.0, "reason": ""})
            known["count"] += 1
            if 0 <= time.time() - known["time"] < REFUSAL_SECONDS:
                return
            known.update(time=time.time(), reason=clean(reason))
            logger.warning("refused of %s: %s (%d so far)", site, known["reason"], known["count"])
            try:
                save_json(self.spool.refusals_file, self._refusals)
            except OSError:
                return  # the log has it
