"""NVFlare 2.9.0's hard-coded timers, and what stands in for them. The one file that knows upstream's lines.

Where NVFlare has a seam it is used instead: `task_request_interval`, `task_check_period` and `default_task_fetch_interval` in the
job (recipe.py), `check_engine_frequency` in the server's kit (policy.py), the grace time of a job process (job_process.py).
"""

from __future__ import annotations

import logging
import math
import sched
import threading
import time
from collections.abc import Callable, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.app_common.executors.client_api.in_process_backend import InProcessBackend
from nvflare.client.in_process import api
from nvflare.client.in_process.api import InProcessClientAPI
from nvflare.fuel.f3.streaming import byte_receiver

HURRY_SECONDS = 5.0
HURRY_PERIOD = 0.05
WATCH_PERIOD = 0.1
RUNNER_PERIOD = 0.05


logger = logging.getLogger("multisite.timers")


def seen_as(module: ModuleType, **names: Any) -> SimpleNamespace:
    """A module as one upstream module is to see it, with some of its names replaced."""
    return SimpleNamespace(**{**vars(module), **names})


class JobBell:
    """Wakes the server's two job loops when there is something for them to do, and leaves them asleep when there is not.

    `nvflare/private/fed/server/job_runner.py:541` (looks for job processes that have ended) and `:642` (looks for submitted jobs)
    sleep one second a turn. They still do while the server is idle. After a submit, and after a job's process has started or
    ended, they look every HURRY_PERIOD for HURRY_SECONDS: what they look for follows at once.
    """

    def __init__(self, processes: Callable[[], Iterable[str]]) -> None:
        """
        Args:
            processes: ids of the jobs that have a process.
        """
        self._processes = processes
        self._hurry_until = 0.0
        self._rung = threading.Condition()

    def ring(self) -> None:
        """Something was submitted, or has ended."""
        with self._rung:
            self._hurry_until = time.monotonic() + HURRY_SECONDS
            self._rung.notify_all()

    def sleep(self, seconds: float) -> None:
        """Stands in for `time.sleep`: at most `seconds`, less when the bell rings or a job's process comes or goes."""
        deadline, known = time.monotonic() + seconds, set(self._processes())
        while (now := time.monotonic()) < deadline:
            with self._rung:
                if now < self._hurry_until:
                    self._rung.wait(HURRY_PERIOD)
                    return
                self._rung.wait(min(deadline - now, WATCH_PERIOD if known else seconds))
            if set(self._processes()) != known:
                self.ring()


class SharedTimer:
    """Stands in for `threading.Timer`: one thread for all of them."""

    _scheduler = sched.scheduler(time.monotonic)
    _start = threading.Lock()
    _thread: threading.Thread | None = None
    _changed = threading.Event()
    _wakes_at = math.inf
    daemon = True

    def __init__(self, interval: float, function: Callable[[], None]) -> None:
        """
        Args:
            interval: seconds from `start` to the call.
            function: called once, unless `cancel` comes first.
        """
        self._interval, self._function = interval, function
        self._event: sched.Event | None = None

    def start(self) -> None:
        """Begins to count."""
        cls = SharedTimer
        with cls._start:
            if cls._thread is None:
                cls._thread = threading.Thread(target=cls._run, daemon=True, name="timers")
                cls._thread.start()
        self._event = cls._scheduler.enter(self._interval, 0, self._call)
        if self._event.time < cls._wakes_at:
            cls._changed.set()

    def cancel(self) -> None:
        """Forgets the call; nothing when it was made."""
        try:
            if self._event is not None:
                self._scheduler.cancel(self._event)
        except ValueError:
            pass  # its time has come

    def _call(self) -> None:
        try:
            self._function()
        except Exception:
            logger.exception("a timer's call failed")

    @classmethod
    def _run(cls) -> None:
        while True:
            cls._wakes_at = math.inf  # what is entered from here on wakes this thread, until it knows its next call
            cls._changed.clear()
            delay = cls._scheduler.run(blocking=False)
            if delay is not None:
                cls._wakes_at = time.monotonic() + delay
            cls._changed.wait(delay)


class News:
    """A `sleep` that ends early when something was told since the same thread's last one."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self._count = 0
        self._seen = threading.local()

    def tell(self) -> None:
        """Ends every sleep."""
        with self._told:
            self._count += 1
            self._told.notify_all()

    def sleep(self, seconds: float) -> None:
        """Stands in for `time.sleep`."""
        with self._told:
            seen = getattr(self._seen, "count", 0)
            self._told.wait_for(lambda: self._count != seen, seconds)
            self._seen.count = self._count


_news = News()


class PromptClientAPI(InProcessClientAPI):
    """The training script's side of the in-process Client API: whatever its waits look for is one of these attributes."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("fl_model", "abort", "stop", "closed", "_receive_error"):
            _news.tell()


class PromptBackend(InProcessBackend):
    """The executor's side."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("_local_result", "_abort"):
            _news.tell()


def hurry_client_api() -> None:
    """In a site's job process: a model and a result are taken when they are there, not at the next half second.

    `_RESULT_POLL_INTERVAL` in `nvflare/app_common/executors/client_api/in_process_backend.py:57` is slept by `execute` there and by
    `__receive` in `nvflare/client/in_process/api.py:167`. It stays the longest wait.
    """
    in_process_backend.InProcessBackend = PromptBackend
    in_process_backend.InProcessClientAPI = PromptClientAPI
    in_process_backend.time = api.time = seen_as(time, sleep=_news.sleep)


def hurry_site_runner(task_news: News) -> None:
    """In a site's job process: a site that waits for a task asks when there is news, not at the next interval.

    `nvflare/private/fed/client/client_runner.py:527` sleeps the fetch interval, which stays the longest wait. `:749` sleeps 0.5 s
    before it asks the server's runner whether it is there. Only their lengths tell the two apart: a fetch interval of exactly 0.5 s is
    taken for the other.

    Args:
        task_news: told when the server has a task.
    """
    from nvflare.private.fed.client import client_runner

    client_runner.time = seen_as(time, sleep=lambda seconds: task_news.sleep(RUNNER_PERIOD if seconds == 0.5 else seconds))


def hurry_server_engine() -> None:
    """In the server's job process: `nvflare/private/fed/server/server_engine.py:846` sleeps a second if it asked too early."""
    from nvflare.private.fed.server import server_engine

    server_engine.time = seen_as(time, sleep=lambda seconds: time.sleep(min(seconds, RUNNER_PERIOD)))


def hurry_parent_watch() -> None:
    """In a job's process: `nvflare/private/fed/app/utils.py:50` looks every second whether its own job has ended, and is waited for."""
    from nvflare.private.fed.app import utils

    utils.time = seen_as(time, sleep=lambda seconds: time.sleep(min(seconds, WATCH_PERIOD)))


def ring_for_jobs(bell: JobBell) -> None:
    """In the server's parent process: gives its job loops this bell."""
    from nvflare.private.fed.server import job_runner

    job_runner.time = seen_as(time, sleep=bell.sleep)


def share_stream_timers() -> None:
    """In every process: what was received is forgotten by one thread, not by a thread for each message.

    `nvflare/fuel/f3/streaming/byte_receiver.py:569` starts a `threading.Timer` of 60 s for every message that was received: 20
    messages a second are 1,200 threads, beyond the limit that keeps a container from taking its host down.
    """
    byte_receiver.threading = seen_as(threading, Timer=SharedTimer)
