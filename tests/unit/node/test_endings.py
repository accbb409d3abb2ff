"""How a job's process ended: found by the node that started it, said under its own name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.private.fed.server.server_engine import ServerEngine
from nvflare.utils.process_utils import spawn_process

from multisite.job import messages
from multisite.node import endings
from multisite.node.endings import Ending, ProcessEndings, WatchedHandle

GIB = 1 << 30
SECONDS = 20.0


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Writes how many processes the kernel has killed for memory."""
    monkeypatch.setattr(endings, "CGROUP", tmp_path)
    monkeypatch.setattr(endings, "RUNNING", tmp_path / "running")
    monkeypatch.setattr(endings, "stopping", threading.Event())
    (tmp_path / "memory.max").write_text(f"{GIB}\n", encoding="utf-8")

    def kills(count: int) -> None:
        (tmp_path / "memory.events").write_text(f"low 0\nhigh 0\nmax 5\noom 3\noom_kill {count}\n", encoding="utf-8")

    kills(2)
    return kills


class Watched:
    """A process that is watched, and what was said of its end."""

    def __init__(self, code: str) -> None:
        self.handle = WatchedHandle(process_adapter=spawn_process([sys.executable, "-c", code], dict(os.environ)))
        self.said: list[Ending] = []
        self._done = threading.Event()
        endings.watch(self.handle, "job-1", self._note)

    def _note(self, ending: Ending) -> None:
        self.said.append(ending)
        self._done.set()

    def end(self) -> Ending:
        assert self._done.wait(SECONDS)
        return self.said[0]


class Manager:
    """The server's job store, of one job."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}

    def get_job(self, job_id: str, fl_ctx: object) -> Any:
        return SimpleNamespace(meta=self.meta) if job_id == "job-1" else None

    def update_meta(self, job_id: str, meta: dict[str, Any], fl_ctx: object) -> None:
        self.meta |= meta


class Engine:
    """The server's engine, as far as it is asked."""

    def __init__(self) -> None:
        self.manager = Manager()
        self.run_processes: dict[str, Any] = {}

    def get_cell(self) -> object:
        return "the cell"

    def get_component(self, name: str) -> Manager:
        return self.manager

    def new_context(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class TheServers(Engine, ServerEngine):  # type: ignore[misc]  # NVFlare is untyped
    """As an engine of the server's, with the topics that it listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: list[str] = []
        self.core_cell = self

    def get_cell(self) -> Any:
        return self

    def register_request_cb(self, channel: str, topic: str, cb: object) -> None:
        self.topics.append(topic)


def started(engine: Engine) -> None:
    """NVFlare's event of a node that has started."""
    context: Any = SimpleNamespace(get_engine=lambda: engine)
    ProcessEndings().handle_event(EventType.SYSTEM_START, context)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marker_is_gone() -> bool:
    return not list(endings.RUNNING.glob("*"))


@pytest.mark.parametrize(
    ("code", "reason"), [("0", ""), ("3", "its job process ended with status 3"), ("102", "(unsafe component)")]
)
def test_a_process_that_ends_is_said_with_its_status(cgroup: object, code: str, reason: str) -> None:
    ending = Watched(f"raise SystemExit({code})").end()
    assert ending == Ending("job-1", int(code))
    assert reason in ending.reason("site-1")
    assert bool(ending.reason("site-1")) is (code != "0")


def test_a_process_that_was_killed_is_said_with_the_signal(cgroup: object) -> None:
    watched = Watched("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert watched.end() == Ending("job-1", -signal.SIGKILL)
    assert "was killed (SIGKILL); next: docker compose logs site-1" in watched.end().reason("site-1")


@pytest.mark.parametrize(("participant", "setting"), [("site-1", "SITE_MEMORY"), ("server", "CONTROL_MEMORY")])
def test_a_process_that_was_killed_for_memory_is_said_with_the_limit_and_its_setting(
    cgroup: Callable[[int], None], participant: str, setting: str
) -> None:
    watched = Watched("import time; time.sleep(60)")
    cgroup(3)
    os.kill(watched.handle.adapter.process.pid if watched.handle.adapter.process else watched.handle.adapter.pid, signal.SIGKILL)
    assert watched.end() == Ending("job-1", -signal.SIGKILL, GIB)
    reason = watched.end().reason(participant)
    assert "the container may have 1.0 GiB" in reason
    assert setting in reason


def test_a_process_that_nvflare_ended_is_nobodys_fault(cgroup: object) -> None:
    watched = Watched("import time; time.sleep(60)")
    watched.handle.terminate()
    watched.handle.wait()
    wait_until(marker_is_gone)
    assert watched.said == []


def test_a_container_that_stops_says_so_and_not_that_its_job_was_killed(cgroup: object) -> None:
    watched = Watched("import time; time.sleep(60)")
    endings.stopping.set()
    watched.handle.terminate()
    assert "its container ended while the job ran" in watched.end().reason("site-1")


def test_a_job_whose_node_died_with_it_is_reported_when_the_node_starts_again(
    cgroup: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys, os, time; from pathlib import Path; from multisite.node import endings\n"
        "from nvflare.utils.process_utils import spawn_process\n"
        f"endings.RUNNING = Path({str(endings.RUNNING)!r})\n"
        "handle = endings.WatchedHandle(process_adapter=spawn_process([sys.executable, '-c', 'import time; time.sleep(1)'], dict(os.environ)))\n"
        "endings.watch(handle, 'job-1', print); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    reported = threading.Event()
    asked: list[tuple[str, str, dict[str, Any]]] = []

    def ask(cell: object, topic: str, target: str, content: dict[str, Any]) -> bool:
        asked.append((topic, target, content))
        reported.set()
        return True

    monkeypatch.setattr(endings.job_messages, "ask", ask)
    started(Engine())
    assert reported.wait(SECONDS)
    assert asked == [(messages.ENDED, "server", asdict(Ending("job-1", None)))]
    assert marker_is_gone()


def test_a_server_whose_node_died_keeps_the_reason_with_the_job(cgroup: object) -> None:
    endings.RUNNING.mkdir()
    for name in ("job-1", "deleted"):
        (endings.RUNNING / name).touch()
    engine = TheServers()
    started(engine)
    wait_until(lambda: bool(engine.manager.meta))
    assert "its container ended while the job ran" in engine.manager.meta[messages.ERRORS]["server"]
    assert engine.topics == [messages.ENDED]
    assert marker_is_gone()


def test_whoever_waits_for_a_process_beside_the_watch_takes_its_status_from_nobody(cgroup: object) -> None:
    """NVFlare's engine waits too, and asks meanwhile: the kernel gives a status once."""
    watched = Watched("import time; time.sleep(0.5); raise SystemExit(3)")
    answers: list[object] = []

    def ask() -> None:
        while (answer := watched.handle.poll()) == JobReturnCode.UNKNOWN:
            time.sleep(0.001)
        watched.handle.wait()
        answers.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert watched.end().code == 3
    assert answers == [JobReturnCode.EXECUTION_ERROR] * 4


def test_a_site_that_had_to_register_again_says_so(cgroup: object) -> None:
    endings.RUNNING.mkdir()
    (endings.RUNNING / "job-1").touch()
    endings.note_cut_off()
    assert (endings.RUNNING / "job-1").read_text(encoding="utf-8") == endings.CUT_OFF
    assert "had to register again" in Ending("job-1", None, cut_off=True).reason("site-1")


def test_the_server_keeps_each_participants_first_reason_with_the_job() -> None:
    engine = Engine()
    endings.note(engine, "site-1", Ending("job-1", 0))
    assert engine.manager.meta == {}
    endings.note(engine, "site-2", Ending("job-1", -9))
    endings.note(engine, "site-2", Ending("job-1", 3))
    endings.note(engine, "server", Ending("job-1", 101))
    kept = engine.manager.meta[messages.ERRORS]
    assert list(kept) == ["site-2", "server"]
    assert "SIGKILL" in kept["site-2"]


def test_a_site_can_not_make_the_server_keep_anything_for_a_job_that_it_does_not_know() -> None:
    engine = Engine()
    with pytest.raises(ValueError, match="no job"):
        endings.note(engine, "site-1", Ending("job-2", 1))
    assert engine.manager.meta == {}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"job": "job-1"},
        {"job": "../../etc", "code": 1, "memory_limit": 0, "cut_off": False},
        {"job": 7, "code": 1, "memory_limit": 0, "cut_off": False},
        {"job": "job-1", "code": "1", "memory_limit": 0, "cut_off": False},
        {"job": "job-1", "code": 1, "memory_limit": None, "cut_off": False},
    ],
)
def test_a_message_that_says_no_ending_is_dropped(content: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Ending.read(content)
    assert Ending.read(asdict(Ending("job-1", None))) == Ending("job-1", None)
