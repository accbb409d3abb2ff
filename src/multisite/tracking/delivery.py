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

from filelock import FileLock

from multisite.tracking.due_jobs import DueJobs
from multisite.tracking.files import changed_at, load_json, save_json
from multisite.tracking.forwarder import DONE
from multisite.tracking.key import SECRET, KeyProblem, read_key
from multisite.tracking.locks import POLL_SECONDS, WAIT_SECONDS
from multisite.tracking.spool import Job, Spool

TICK_SECONDS, IDLE_SECONDS = 0.5, 2.0  # between looks: while something can be delivered, and while nothing can
RESTART_SECONDS = (1.0, 30.0)
GIVE_UP_SECONDS = 600.0  # a finished job of which nothing comes and nothing arrives is left alone then, until somebody asks
SETTINGS_SECONDS = 60.0  # after which a job without settings is none to deliver
FINISHED_WRITERS = 4  # at a time, of jobs that are over
KEEP_DAYS = 7.0
SWEEP_SECONDS = 600.0
FREED_JOBS = 10_000  # whose delivery is remembered, for sites that come back later
DAY = 86_400.0

logger = logging.getLogger("multisite.tracking")


@dataclass
class WriterProcess:
    """One job's writer: its process, if it runs, and when the next one may start."""

    job: Job
    process: subprocess.Popen[str] | None = None
    not_before: float = 0.0
    pause: float = RESTART_SECONDS[0]
    asked: float = 0.0
    give_up_at: float = 0.0
    signature: tuple[float, ...] = ()
    seen: tuple[tuple[int, ...], int] = ((), 0)  # sizes of the logs, and what is delivered of them
    settled: bool = False  # everything that is here is delivered

    def is_idle(self) -> bool:
        """Whether there is nothing to deliver, or nothing to be done about it for now: no key, given up, a pause."""
        waits = time.monotonic() < self.not_before - IDLE_SECONDS
        return self.settled or (self.process is None and (waits or self.has_given_up()))

    def has_given_up(self) -> bool:
        """Whether nothing is tried until somebody asks."""
        return time.monotonic() > self.give_up_at


class Delivery:
    """Delivers from one spool; one process a spool does."""

    def __init__(self, spool: Spool, key_file: Path = SECRET) -> None:
        """
        Raises:
            filelock.Timeout: another process delivers from this spool.
            OSError: the lock can't be made.
        """
        self.spool = spool
        self.key_file = key_file
        # Started by one thread and stopped by another. Only an flock ends with its process, and is one that `is_locked` sees.
        self._lock = FileLock(spool.agent_lock, thread_local=False, fallback_to_soft=False)
        self._lock.acquire(timeout=WAIT_SECONDS, poll_interval=POLL_SECONDS)
        self._writers: dict[str, WriterProcess] = {}
        self._stopped = threading.Event()
        self._swept = 0.0
        self._due_jobs, self._asked = DueJobs(spool), 0.0
        self._problems: dict[str, str] = {}  # of jobs that can't be looked at
        self._thread = threading.Thread(target=self._run, daemon=True, name="wandb-delivery")

    def start(self) -> None:
        """Delivers from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the writers. What they have not delivered stays."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        for writer in self._writers.values():
            if writer.process is not None and writer.process.poll() is None:
                writer.process.kill()
                writer.process.wait()
        self._lock.release()

    def _run(self) -> None:
        pause = TICK_SECONDS
        while not self._stopped.wait(pause):
            try:
                pause = IDLE_SECONDS if self.tick() else TICK_SECONDS
            except Exception:  # the next tick may do better; a dead thread would not
                logger.exception("delivery to W&B")

    def tick(self) -> bool:
        """Starts a writer wherever one is due, and sweeps now and then. Returns whether nothing is to be done for now."""
        asked = self.spool.sync_requested()
        idle = [self._look(job, asked) for job in self._due_jobs.jobs(every=asked != self._asked)]
        self._asked = asked
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            for freed in sweep(self.spool):
                self._writers.pop(freed, None)
        return all(idle)

    def _look(self, job: Job, asked: float) -> bool:
        """Starts a job's writer, if it is due. Returns whether nothing is to be done for now."""
        try:
            return self._look_at(job, asked)
        except Exception as error:  # of this job's files: every other goes on
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            if self._problems.get(job.id) != reason:
                self._problems[job.id] = reason
                self._set_state(job, "stalled", reason)
            return True

    def _look_at(self, job: Job, asked: float) -> bool:
        if not job.settings_file.exists():
            if time.time() - changed_at(job.folder) > SETTINGS_SECONDS:
                self._due_jobs.settled(job)
            return True
        writer = self._writers.setdefault(job.id, WriterProcess(job, asked=asked, give_up_at=time.monotonic() + GIVE_UP_SECONDS))
        if writer.asked != asked:
            writer.asked, writer.not_before, writer.pause = asked, 0.0, RESTART_SECONDS[0]
            writer.give_up_at = time.monotonic() + GIVE_UP_SECONDS
        self._supervise(writer)
        if (writer.settled or writer.has_given_up()) and writer.process is None and job.is_over():
            self._due_jobs.settled(job)
        return writer.is_idle()

    def _supervise(self, writer: WriterProcess) -> None:
        if writer.settled and writer.process is None and writer.signature == writer.job.signature():
            return
        now, over = time.monotonic(), writer.job.is_over()
        seen = writer.job.log_sizes(), sum(writer.job.delivered().values())
        if not over or seen != writer.seen:
            writer.seen, writer.give_up_at = seen, now + GIVE_UP_SECONDS
        if writer.process is not None:
            code = writer.process.poll()
            if code is None:
                if now > writer.give_up_at:
                    writer.process.kill()
                return
            writer.process = None
            writer.not_before = now + writer.pause
            writer.pause = RESTART_SECONDS[0] if code == 0 else min(writer.pause * 2, RESTART_SECONDS[1])
        if now < writer.not_before or now > writer.give_up_at or not self._is_due(writer):
            return
        if misconfigured := writer.job.read_settings()[1]:
            self._set_state(writer.job, "misconfigured", misconfigured)
            writer.not_before = now + 5.0
            return
        try:
            read_key(self.key_file)
        except KeyProblem as problem:
            self._set_state(writer.job, "offline", str(problem))
            writer.not_before = now + 5.0
            return
        if over and not self._has_room():
            writer.give_up_at = now + GIVE_UP_SECONDS
            return
        command = [sys.executable, "-P", "-m", "multisite.tracking.writer", str(writer.job.folder), str(self.key_file)]
        writer.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=writer.job.folder, text=True
        )
        threading.Thread(target=_log_output, args=(writer.process,), daemon=True, name=f"writer-{writer.job.id}").start()

    def _has_room(self) -> bool:
        """Whether another finished job's writer may run beside those that do: each takes memory, with W&B's client some 110 MiB."""
        running = [writer.job for writer in self._writers.values() if writer.process is not None]
        return sum(job.is_over() for job in running) < FINISHED_WRITERS

    def _is_due(self, writer: WriterProcess) -> bool:
        """Whether rows, a model, or the end of a run wait here that are not delivered."""
        origins = writer.job.origins()
        writer.signature = writer.job.signature()
        delivered = writer.job.delivered()
        writer.settled = all(origin.rows() <= delivered.get(origin.name, 0) for origin in origins)
        writer.settled &= not (origins and writer.job.is_unfinished() and writer.job.is_over())
        return not writer.settled

    @staticmethod
    def _set_state(job: Job, state: str, reason: str) -> None:
        status = job.writer_status()
        if (status.get("state"), status.get("reason")) == (state, reason):
            return
        logger.warning(
            "W&B: %s: %s; metrics of job %s are kept in %s; next: mend it, then make sync", state, reason, job.id, job.folder
        )
        try:
            save_json(job.writer_file, {**status, "state": state, "reason": reason})
        except OSError:
            return  # the log has it


def _log_output(process: subprocess.Popen[str]) -> None:
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
    freed = []
    for job in list(spool.jobs()):
        try:
            if _may_be_freed(job, now or time.time()):
                _note_freed(spool, job)
                shutil.rmtree(job.folder, ignore_errors=True)
                freed.append(job.id)
        except OSError as error:
            logger.warning("the records of job %s stay: %s", job.id, error)
    return freed


def _may_be_freed(job: Job, now: float) -> bool:
    """Whether every record is delivered, and nothing has changed for `keep_days`."""
    if now - changed_at(job.folder) < keep_days() * DAY:  # cheap: it is asked of every job that is kept
        return False
    origins = job.origins()
    if not origins or not job.is_over() or job.has_model():
        return False
    newest = max(path.stat().st_mtime for path in job.folder.rglob("*") if path.is_file())
    return now - newest >= keep_days() * DAY and is_delivered(job)


def is_delivered(job: Job) -> bool:
    """Whether W&B has every record of a job, by whoever delivers it: the writer here, or the server, which has told this site."""
    accounts = job.accounts()
    return all(
        not (account := accounts[origin.name]).problem
        and ((account.closed and not account.pending) or (origin.folder / DONE).exists())
        for origin in job.origins()
    )


def _note_freed(spool: Spool, job: Job) -> None:
    """Notes what was delivered of the sites that sent their records here: one may come back and not know."""
    delivered = {name: account.delivered for name, account in job.accounts().items() if job.origin(name).site_json.exists()}
    if delivered:
        freed = load_json(spool.freed_file)
        freed[job.id] = delivered
        save_json(spool.freed_file, dict(list(freed.items())[-FREED_JOBS:]), durable=True)
