"""Keeps a W&B writer running for every job that has something to deliver, and frees what is delivered."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from multisite.tracking.files import load_json, save_json
from multisite.tracking.forwarder import DONE
from multisite.tracking.key import SECRET, KeyProblem, read_key
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import Job, Spool

TICK_SECONDS, REST_SECONDS = 0.5, 2.0  # between looks: while something can be delivered, and while nothing can
RESTART_SECONDS = (1.0, 30.0)
PATIENCE_SECONDS = 600.0  # a finished job whose rows W&B does not take is left alone after that, until somebody asks
KEEP_DAYS = 7.0
SWEEP_SECONDS = 600.0
FREED_JOBS = 10_000  # whose delivery is remembered, for sites that come back later
DAY = 86_400.0

logger = logging.getLogger("multisite.tracking")


@dataclass
class Writing:
    """One job's writer."""

    job: Job
    process: subprocess.Popen[str] | None = None
    not_before: float = 0.0
    pause: float = RESTART_SECONDS[0]
    asked: float = 0.0
    patient_until: float = 0.0
    signature: tuple[float, ...] = ()
    settled: bool = False  # everything that is here is delivered

    def rests(self) -> bool:
        """Whether there is nothing to deliver, or nothing to be done about it for now: no key, no patience, a pause."""
        now = time.monotonic()
        return self.settled or (self.process is None and (now < self.not_before - REST_SECONDS or now > self.patient_until))


class Delivery:
    """Delivers from one spool; one process a spool does."""

    def __init__(self, spool: Spool, key_file: Path = SECRET) -> None:
        """
        Raises:
            BlockingIOError: another process delivers from this spool.
        """
        self.spool = spool
        self.key_file = key_file
        self._lock = LogWriter(spool.agent_lock)
        self._writings: dict[str, Writing] = {}
        self._stopped = threading.Event()
        self._swept = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True, name="wandb-delivery")

    def start(self) -> None:
        """Delivers from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the writers. What they have not delivered stays."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        for writing in self._writings.values():
            if writing.process is not None and writing.process.poll() is None:
                writing.process.kill()
                writing.process.wait()
        self._lock.close()

    def _run(self) -> None:
        pause = TICK_SECONDS
        while not self._stopped.wait(pause):
            try:
                self.tick()
                pause = REST_SECONDS if all(writing.rests() for writing in self._writings.values()) else TICK_SECONDS
            except Exception:  # the next tick may do better; a dead thread would not
                logger.exception("delivery to W&B")

    def tick(self) -> None:
        """Starts a writer wherever one is due, and sweeps now and then."""
        asked = self.spool.sync_requested()
        for job in self.spool.jobs():
            if not job.settings_file.exists():
                continue
            writing = self._writings.setdefault(
                job.id, Writing(job, asked=asked, patient_until=time.monotonic() + PATIENCE_SECONDS)
            )
            if writing.asked != asked:
                writing.asked, writing.not_before, writing.pause = asked, 0.0, RESTART_SECONDS[0]
                writing.patient_until = time.monotonic() + PATIENCE_SECONDS
            try:
                self._tend(writing)
            except OSError as error:  # of this job's files: every other goes on
                self._say(writing.job, "stalled", f"{error.strerror}: {error.filename}")
                writing.not_before = time.monotonic() + RESTART_SECONDS[1]
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            sweep(self.spool)

    def _tend(self, writing: Writing) -> None:
        if writing.settled and writing.process is None and writing.signature == writing.job.signature():
            return
        now = time.monotonic()
        if not writing.job.is_over():
            writing.patient_until = now + PATIENCE_SECONDS
        if writing.process is not None:
            code = writing.process.poll()
            if code is None:
                if now > writing.patient_until:
                    writing.process.kill()
                return
            writing.process = None
            writing.not_before = now + writing.pause
            writing.pause = RESTART_SECONDS[0] if code == 0 else min(writing.pause * 2, RESTART_SECONDS[1])
        if now < writing.not_before or now > writing.patient_until or not self._is_due(writing):
            return
        if misconfigured := writing.job.read_settings()[1]:
            self._say(writing.job, "misconfigured", misconfigured)
            writing.not_before = now + 5.0
            return
        try:
            read_key(self.key_file)
        except KeyProblem as problem:
            self._say(writing.job, "offline", str(problem))
            writing.not_before = now + 5.0
            return
        command = [sys.executable, "-P", "-m", "multisite.tracking.writer", str(writing.job.folder), str(self.key_file)]
        writing.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=writing.job.folder, text=True
        )
        threading.Thread(target=_pass_on, args=(writing.process,), daemon=True, name=f"writer-{writing.job.id}").start()

    def _is_due(self, writing: Writing) -> bool:
        """Whether rows wait here that are not delivered."""
        origins = writing.job.origins()
        writing.signature = writing.job.signature()
        delivered = writing.job.delivered()
        writing.settled = all(origin.rows() <= delivered.get(origin.name, 0) for origin in origins)
        return not writing.settled

    @staticmethod
    def _say(job: Job, state: str, reason: str) -> None:
        word = job.writer_word()
        if (word.get("state"), word.get("reason")) == (state, reason):
            return
        logger.warning(
            "W&B: %s: %s; metrics of job %s are kept in %s; next: mend it, then make sync", state, reason, job.id, job.folder
        )
        try:
            save_json(job.writer_file, {**word, "state": state, "reason": reason})
        except OSError:
            return  # the log has it


def _pass_on(process: subprocess.Popen[str]) -> None:
    """The writer's lines, into this process's log."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            logger.info("%s", line.rstrip())


def keep_days() -> float:
    """How long delivered records are kept: METRICS_KEEP_DAYS, or 7."""
    return float(os.environ.get("METRICS_KEEP_DAYS") or KEEP_DAYS)


def sweep(spool: Spool, now: float | None = None) -> list[str]:
    """Deletes the jobs whose every record was delivered, and which nobody changed for `keep_days`.

    Returns:
        Their ids.
    """
    gone = []
    for job in list(spool.jobs()):
        try:
            if _may_go(job, now or time.time()):
                _remember(spool, job)
                shutil.rmtree(job.folder, ignore_errors=True)
                gone.append(job.id)
        except OSError as error:
            logger.warning("the records of job %s stay: %s", job.id, error)
    return gone


def _may_go(job: Job, now: float) -> bool:
    """Whether every record is delivered, and nothing has changed for `keep_days`."""
    origins = job.origins()
    if not origins or not job.is_over():
        return False
    newest = max(path.stat().st_mtime for path in job.folder.rglob("*") if path.is_file())
    if now - newest < keep_days() * DAY:
        return False
    accounts = job.accounts()
    return all(
        (accounts[origin.name].closed and not accounts[origin.name].pending and not accounts[origin.name].problem)
        or (origin.folder / DONE).exists()
        for origin in origins
    )


def _remember(spool: Spool, job: Job) -> None:
    """Notes what was delivered of the sites that sent their records here: one may come back and not know."""
    delivered = {name: account.delivered for name, account in job.accounts().items() if job.origin(name).site_json.exists()}
    if delivered:
        freed = load_json(spool.freed_file)
        freed[job.id] = delivered
        save_json(spool.freed_file, dict(list(freed.items())[-FREED_JOBS:]))
