"""NVFlare's engine, as the node process sees it: caught through the component seam when the system starts."""

from __future__ import annotations

import logging
import time
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus

logger = logging.getLogger("multisite.node")


class Engine:
    """The running parent process's engine, once there is one."""

    def __init__(self) -> None:
        self.value: Any = None
        self.heartbeat = 0.0  # time.monotonic() of the last one that the server accepted
        self.attempts = 0  # heartbeats that were begun since the server accepted one
        self.attempts_before: int | None = None  # of these, begun before the server was seen to answer; None: it was not seen

    def set(self, engine: Any) -> None:
        """Remembers the engine of a server or a client that has started."""
        self.accepted()
        self.value = engine

    def accepted(self) -> None:
        """The server accepted a heartbeat."""
        self.heartbeat, self.attempts, self.attempts_before = time.monotonic(), 0, None


ENGINE = Engine()


class NodeWatch(FLComponent):
    """Site- and server-level component (`local/resources.json`). Job processes load it too; there it never starts."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.BEFORE_CLIENT_HEARTBEAT:
            ENGINE.attempts += 1
        elif event_type == EventType.AFTER_CLIENT_HEARTBEAT:
            ENGINE.accepted()
        if event_type != EventType.SYSTEM_START:
            return
        engine = fl_ctx.get_engine()
        manager = engine.get_component(SystemComponents.JOB_MANAGER)
        if manager is not None:
            _close_jobs_of_a_dead_server(manager, fl_ctx)
        ENGINE.set(engine)


def _close_jobs_of_a_dead_server(manager: Any, fl_ctx: FLContext) -> None:
    """NVFlare 2.9 leaves the jobs of a killed server RUNNING for ever (`restore_running_job` has no caller)."""
    for job in manager.get_jobs_by_status([RunStatus.DISPATCHED, RunStatus.RUNNING], fl_ctx) or []:
        logger.warning("job %s was running when the server died: marked as abnormally finished", job.job_id)
        manager.set_status(job.job_id, RunStatus.FINISHED_ABNORMAL, fl_ctx)
