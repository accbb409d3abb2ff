"""How a job's process ended, under the name of the participant whose it was: killed, out of memory, failed, or gone with its container.

Each node watches the processes that it starts. A site reports to the server; the server keeps the reasons in the job's metadata, where
`make submit` finds them even when the job's own process on the server is the one that died, and notifies that process if it lives.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle
from nvflare.fuel.common.exit_codes import PROCESS_EXIT_REASON
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.private.fed.server.server_engine import ServerEngine
from nvflare.utils.process_utils import ProcessAdapter

from multisite.job import messages as job_messages
from multisite.tracking.files import checked_name

# A file for each job whose process runs; those that are there at a node's start died with the last one.
RUNNING = Path("/workspace/running")
CUT_OFF = "cut off"  # in such a file
REPORT_SECONDS, REPORT_PERIOD = 120.0, 2.0
CGROUP = Path("/sys/fs/cgroup")
OOM_FILES = ("memory.events", "memory/memory.oom_control")  # version 2, version 1 (Linux: Documentation/admin-guide)
LIMIT_FILES = ("memory.max", "memory/memory.limit_in_bytes")
MEMORY_SETTING = {True: "CONTROL_MEMORY in .env", False: "SITE_MEMORY in .env, or a smaller BATCH_SIZE"}

logger = logging.getLogger("multisite.node")
stopping = threading.Event()  # this node ends, and its jobs with it
_noting = threading.Lock()


@dataclass(frozen=True)
class Ending:
    """How one process ended.

    Attributes:
        job: NVFlare's id.
        code: exit status, negative for a signal; None where the container ended with it.
        memory_limit: bytes that the container may have, if the process was killed for more; else 0.
        cut_off: the site's node ended it, to register again after the server had given it up.
    """

    job: str
    code: int | None
    memory_limit: int = 0
    cut_off: bool = False

    @classmethod
    def read(cls, content: dict[str, Any]) -> Ending:
        """
        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        job, code, limit = content["job"], content["code"], content["memory_limit"]
        if not isinstance(job, str) or not isinstance(code, (int, type(None))) or not isinstance(limit, int):
            raise TypeError("not an ending")
        return cls(checked_name(job), code, max(0, limit), content["cut_off"] is True)

    def reason(self, participant: str) -> str:
        """For a person; empty for a status of 0."""
        is_server = participant == FQCN.ROOT_SERVER
        look = f"next: docker compose logs {participant}"
        if self.memory_limit:
            limit = f"{self.memory_limit / 2**30:.1f} GiB"
            return f"its job process was killed for memory: the container may have {limit}; next: {MEMORY_SETTING[is_server]}"
        if self.cut_off:
            return f"the server could not reach it for more than a minute, and it had to register again; {look}"
        if self.code is None:
            return f"its container ended while the job ran (stopped, killed, or out of memory); {look}"
        if self.code < 0:
            name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else f"signal {-self.code}"
            return f"its job process was killed ({name}); {look}"
        if self.code:
            meaning = PROCESS_EXIT_REASON.get(self.code)
            return f"its job process ended with status {self.code}{f' ({meaning})' if meaning else ''}; {look}"
        return ""


def _read(names: tuple[str, ...]) -> str:
    for name in names:
        if (path := CGROUP / name).exists():
            return path.read_text(encoding="utf-8")
    return ""


def memory_kills() -> int:
    """Processes of this container that the kernel has killed for memory."""
    lines = [line.split() for line in _read(OOM_FILES).splitlines()]
    return sum(int(line[1]) for line in lines if len(line) == 2 and line[0] == "oom_kill")


def memory_limit() -> int:
    """Bytes that this container may have; 0 without a limit."""
    text = _read(LIMIT_FILES).strip()
    return int(text) if text.isdecimal() and int(text) < 2**62 else 0


class WatchedHandle(ProcessHandle):
    """NVFlare's handle of a job's process, which remembers whether NVFlare ended it.

    One thread alone waits for the process, that of `watch`: the adapter (`nvflare/utils/process_utils.py`, `wait` and `_poll_pid`) asks
    the kernel each time, which gives the exit status once, and calls it -1 for whoever asks second.
    """

    terminated = False

    def __init__(self, process_adapter: ProcessAdapter) -> None:
        super().__init__(process_adapter=process_adapter)
        self._ended = threading.Event()

    def wait_for_process(self) -> int:
        """For the one thread that watches the process: its exit status, negative for a signal."""
        self.adapter.wait()
        code = self.adapter.poll() or 0
        self._ended.set()
        return int(code)

    def wait(self) -> None:
        """NVFlare's launcher seam: until the process has ended."""
        self._ended.wait()

    def poll(self) -> Any:
        """NVFlare's launcher seam: what became of the job's process."""
        return super().poll() if self._ended.is_set() else JobReturnCode.UNKNOWN

    def terminate(self) -> None:
        """NVFlare's launcher seam: the job was aborted, or has failed elsewhere."""
        self.terminated = True
        super().terminate()


def note_cut_off() -> None:
    """In a site's node that is about to start again to register: its jobs end with it, and the next node says why."""
    stopping.set()
    for marker in RUNNING.glob("*"):
        marker.write_text(CUT_OFF, encoding="utf-8")


def watch(handle: WatchedHandle, job_id: str, report: Callable[[Ending], None]) -> None:
    """In a node: calls `report` when the process has ended by itself, in a thread of its own."""
    kills = memory_kills()
    RUNNING.mkdir(parents=True, exist_ok=True)
    marker = RUNNING / checked_name(job_id)
    marker.touch()

    def wait() -> None:
        code = handle.wait_for_process()
        if stopping.is_set():
            # The marker stays: if this report does not arrive, the next node sends it.
            report(Ending(job_id, None, cut_off=marker.read_text(encoding="utf-8") == CUT_OFF))
            return
        if not handle.terminated:
            for_memory = code < 0 and memory_kills() > kills
            report(Ending(job_id, code, memory_limit() if for_memory else 0))
        marker.unlink(missing_ok=True)

    threading.Thread(target=wait, daemon=True, name=f"job-end-{job_id}").start()


def report_to_server(engine: Any, ending: Ending) -> None:
    """On a site: says it until the server has answered, for REPORT_SECONDS at most."""
    deadline = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < deadline:
        cell = engine.get_cell()
        if cell is not None and job_messages.ask(cell, job_messages.ENDED, FQCN.ROOT_SERVER, asdict(ending)):
            return
        time.sleep(REPORT_PERIOD)
    logger.warning("the server did not take the report of how the process of job %s ended", ending.job)


def note(engine: Any, participant: str, ending: Ending) -> None:
    """On the server: keeps the reason in the job's metadata, and notifies the job's process. A job that it does not know leaves nothing."""
    reason = ending.reason(participant)
    manager = engine.get_component(SystemComponents.JOB_MANAGER)
    with _noting, engine.new_context() as fl_ctx:
        job = manager.get_job(ending.job, fl_ctx)
        if job is None:
            raise ValueError(f"no job {ending.job}")
        errors = dict(job.meta.get(job_messages.ERRORS) or {})
        if reason and participant not in errors:
            logger.error("job %s: %s: %s", ending.job, participant, reason)
            manager.update_meta(ending.job, {job_messages.ERRORS: {**errors, participant: reason}}, fl_ctx)
    if participant != FQCN.ROOT_SERVER and ending.job in engine.run_processes:
        content = {"site": participant, "reason": reason or "its job process ended without a result"}
        job_messages.send(engine.get_cell(), job_messages.PROBLEM, job_messages.server_job(ending.job), content)


class ProcessEndings(FLComponent):
    """Part of every server's and every site's node (`local/resources.json`)."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type != EventType.SYSTEM_START:
            return
        engine = fl_ctx.get_engine()
        left = [Ending(path.name, None, cut_off=path.read_text(encoding="utf-8") == CUT_OFF) for path in RUNNING.glob("*")]
        for path in RUNNING.glob("*"):
            path.unlink()
        if isinstance(engine, ServerEngine):
            job_messages.receive(
                engine.get_cell(), job_messages.ENDED, lambda site, content: note(engine, site, Ending.read(content))
            )
        for ending in left:
            threading.Thread(target=self._report, args=(engine, ending), daemon=True, name="job-ends").start()

    @staticmethod
    def _report(engine: Any, ending: Ending) -> None:
        if isinstance(engine, ServerEngine):
            with contextlib.suppress(ValueError):  # its job was deleted since
                note(engine, FQCN.ROOT_SERVER, ending)
        else:
            report_to_server(engine, ending)
