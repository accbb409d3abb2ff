"""NVFlare 2.9.0's hard-coded timers, and what stands in for them. This file and `transport.py` are the ones that know upstream's lines.

Where NVFlare has a seam it is used instead: `task_request_interval` and `default_task_fetch_interval` in the job (recipe.py), the
grace time of a job process (job_process.py).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
from nvflare.fuel.f3.cellnet import connector_manager

START_SECONDS = 30.0
IDLE_SECONDS = 5.0
HURRY_SECONDS = 5.0
HURRY_PERIOD = 0.05
WATCH_PERIOD = 0.1
RUNNER_PERIOD = 0.05
CLEANUP_SECONDS = 2.6
CHALLENGE_SECONDS = 10.0
RESULT_SECONDS = 0.5
RESULT_PERIOD = 0.01


def seen_as(module: ModuleType, **names: Any) -> SimpleNamespace:
    """A module as one upstream module is to see it, with some of its names replaced."""
    return SimpleNamespace(**{**vars(module), **names})


class JobBell:
    """Wakes the server's two job loops when there is something for them to do, and leaves them asleep when there is not.

    `nvflare/private/fed/server/job_runner.py:541` (looks for job processes that have ended) and `:642` (looks for submitted jobs)
    sleep one second a turn. While no job runs they sleep for IDLE_SECONDS, for each look reads every job of the store; what was
    submitted and can't start yet waits so long for its next try. After a submit, and after a job's process has started or ended, they
    look every HURRY_PERIOD for HURRY_SECONDS: what they look for follows at once.
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
        """Something was submitted, or has ended, or the server stops."""
        with self._rung:
            self._hurry_until = time.monotonic() + HURRY_SECONDS
            self._rung.notify_all()

    def sleep(self, seconds: float) -> None:
        """Stands in for `time.sleep`: less when the bell rings or a job's process comes or goes, more when there is no job."""
        known = set(self._processes())
        seconds = seconds if known else max(seconds, IDLE_SECONDS)
        deadline = time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            with self._rung:
                if now < self._hurry_until:
                    self._rung.wait(HURRY_PERIOD)
                    return
                self._rung.wait(min(deadline - now, WATCH_PERIOD if known else seconds))
            if set(self._processes()) != known:
                self.ring()


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


def telling(base: Any, names: Sequence[str], news: News) -> type:
    """A class like `base` that tells `news` when one of these attributes is set: what upstream's waits look for."""

    def __setattr__(self: Any, name: str, value: Any) -> None:
        base.__setattr__(self, name, value)
        if name in names:
            news.tell()

    return type(base.__name__, (base,), {"__setattr__": __setattr__, "__module__": base.__module__})


def hurry_client_api() -> None:
    """In a site's job process: a model and a result are taken when they are there, not at the next half second.

    `_RESULT_POLL_INTERVAL` in `nvflare/app_common/executors/client_api/in_process_backend.py:57` is slept by `execute` there and by
    `__receive` in `nvflare/client/in_process/api.py:167`. It stays the longest wait.
    """
    from nvflare.app_common.executors.client_api import in_process_backend
    from nvflare.client.in_process import api

    news = News()
    script_side = ("fl_model", "abort", "stop", "closed", "_receive_error")
    in_process_backend.InProcessClientAPI = telling(api.InProcessClientAPI, script_side, news)
    in_process_backend.InProcessBackend = telling(in_process_backend.InProcessBackend, ("_local_result", "_abort"), news)
    in_process_backend.time = api.time = seen_as(time, sleep=news.sleep)


def hurry_listener() -> None:
    """In a node: the listener for its jobs' processes is not waited for, as the first of them comes long after it.

    `nvflare/fuel/f3/cellnet/connector_manager.py:236` sleeps 0.5 s before the node goes on to the server.
    """
    connector_manager.time = seen_as(time, sleep=lambda seconds: None)


def rest_cleanup() -> None:
    """In the server's parent process: it looks for lost sites every CLEANUP_SECONDS, and is woken when it has to stop.

    `nvflare/private/fed/server/fed_server.py:304` looks every 0.2 s whether it has to, and for lost sites every 5 s. Other sleeps of the
    module are none of 0.2 s.
    """
    from nvflare.private.fed.app.deployer import server_deployer
    from nvflare.private.fed.server import fed_server

    news = News()
    server_deployer.FederatedServer = telling(fed_server.FederatedServer, ["shutdown"], news)
    fed_server.time = seen_as(time, sleep=lambda seconds: news.sleep(CLEANUP_SECONDS) if seconds == 0.2 else time.sleep(seconds))


def hurry_registration(has_started: Callable[[], bool]) -> None:
    """In a site that starts: it registers as soon as its connection is there.

    `nvflare/private/fed/app/client/client_train.py:125` and `:133` look every second for what another thread makes, and
    `nvflare/private/fed/authenticator.py:233` asks the server again after two. A site that has started, or could not in START_SECONDS,
    waits as long as it did. `nvflare/private/fed/client/communicator.py:334` would wait 30 s for an answer that was lost.

    Args:
        has_started: whether the site has registered and started.
    """
    from nvflare.private.fed import authenticator
    from nvflare.private.fed.app.client import client_train
    from nvflare.private.fed.client import communicator

    class Authenticator(authenticator.Authenticator):  # type: ignore[misc]
        def __init__(self, *arguments: Any, msg_timeout: float, **more: Any) -> None:
            super().__init__(*arguments, msg_timeout=min(msg_timeout, CHALLENGE_SECONDS), **more)

    communicator.Authenticator = Authenticator
    deadline = time.monotonic() + START_SECONDS

    def sleep(seconds: float) -> None:
        starts = not has_started() and time.monotonic() < deadline
        time.sleep(min(seconds, RUNNER_PERIOD) if starts else seconds)

    client_train.time = authenticator.time = seen_as(time, sleep=sleep)


def hurry_login() -> None:
    """In an admin: as `hurry_registration`. Whoever logs in says how long it may take."""
    from nvflare.private.fed import authenticator

    authenticator.time = seen_as(time, sleep=lambda seconds: time.sleep(min(seconds, RUNNER_PERIOD)))


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


class ResultBell:
    """A `sleep` that ends when a site's result is there, and is short for a moment after: one waiter's look is another's news."""

    def __init__(self) -> None:
        self._hurry_until = 0.0
        self._rung = threading.Condition()

    def ring(self) -> None:
        """A result was taken in."""
        with self._rung:
            self._hurry_until = time.monotonic() + RESULT_SECONDS
            self._rung.notify_all()

    def sleep(self, seconds: float) -> None:
        """Stands in for `time.sleep`."""
        with self._rung:
            hurry = time.monotonic() < self._hurry_until
            self._rung.wait(min(seconds, RESULT_PERIOD) if hurry else seconds)


result_bell = ResultBell()


def hurry_results() -> None:
    """In the server's job process: results are looked at when they come.

    `nvflare/apis/impl/wf_comm_server.py:1058` looks every 0.2 s for tasks that are done, and `:1212` and
    `nvflare/app_common/workflows/fedavg.py:228` for whether it found one. These stay the longest waits.
    """
    from nvflare.apis.impl import wf_comm_server
    from nvflare.app_common.workflows import fedavg

    wf_comm_server.time = fedavg.time = seen_as(time, sleep=result_bell.sleep)


def hurry_server_engine() -> None:
    """In the server's job process: its end is seen when it comes, and not looked for.

    `nvflare/private/fed/server/fed_server.py:1154` looks every 3 s whether the job has ended, and sends the parent a message each time;
    `server_commands.py:115` looks every second whether an aborted one has. Both stay the longest waits.
    `server_engine.py:846` sleeps a second if it asked too early.
    """
    from nvflare.private.fed.server import fed_server, server_commands, server_engine
    from nvflare.private.fed.server.server_engine_internal_spec import EngineInfo

    news = News()
    server_engine.EngineInfo = telling(EngineInfo, ["status"], news)
    fed_server.time = server_commands.time = seen_as(time, sleep=news.sleep)
    server_engine.time = seen_as(time, sleep=lambda seconds: time.sleep(min(seconds, RUNNER_PERIOD)))


def exists(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def hurry_parent_watch() -> None:
    """In a job's process: `nvflare/private/fed/app/utils.py:50` looks every second whether its own job has ended, and is waited for.

    It looks for its parent too, by psutil, which takes a millisecond.
    """
    from nvflare.private.fed.app import utils

    utils.time = seen_as(time, sleep=lambda seconds: time.sleep(min(seconds, WATCH_PERIOD)))
    utils.psutil = seen_as(psutil, pid_exists=exists)


def ring_for_jobs(bell: JobBell) -> None:
    """In the server's parent process: gives its job loops this bell."""
    from nvflare.private.fed.server import job_runner

    job_runner.time = seen_as(time, sleep=bell.sleep)
