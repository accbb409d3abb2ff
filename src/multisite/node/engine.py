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
from nvflare.fuel.f3.cellnet.defs import CellChannel, CellChannelTopic, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message

logger = logging.getLogger("multisite.node")


class Engine:
    """The running parent process's engine, once there is one.

    Attributes:
        heartbeat: `time.monotonic()` of the last heartbeat that the server accepted.
        unanswered: the same of the first one that was begun since; None if there was none.
        server_key: the public key of the server that the site has registered with; empty: not known.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self.heartbeat = 0.0
        self.unanswered: float | None = None
        self.server_key = b""

    def set(self, engine: Any) -> None:
        """Remembers the engine of a server or a client that has started."""
        self.accepted()
        self.value = engine

    def begun(self) -> None:
        """A heartbeat was begun."""
        if self.unanswered is None:
            self.unanswered = time.monotonic()

    def accepted(self) -> None:
        """The server has accepted a heartbeat."""
        self.heartbeat, self.unanswered = time.monotonic(), None


ENGINE = Engine()


class NodeWatch(FLComponent):
    """Site- and server-level component (`local/resources.json`). Job processes load it too; there it never starts."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.BEFORE_CLIENT_HEARTBEAT:
            ENGINE.begun()
        if event_type != EventType.SYSTEM_START:
            return
        engine = fl_ctx.get_engine()
        manager = engine.get_component(SystemComponents.JOB_MANAGER)
        if manager is not None:
            _close_jobs_of_a_dead_server(manager, fl_ctx)
        else:
            cell = engine.get_cell().core_cell
            cell.add_incoming_reply_filter(
                channel=CellChannel.SERVER_MAIN, topic=CellChannelTopic.HEART_BEAT, cb=heartbeat_answered
            )
        ENGINE.set(engine)


def heartbeat_answered(reply: Message) -> None:
    """NVFlare's filter seam. Its event AFTER_CLIENT_HEARTBEAT comes without an answer too (`communicator.py`, `send_heartbeat`)."""
    if reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK:
        ENGINE.accepted()


def _close_jobs_of_a_dead_server(manager: Any, fl_ctx: FLContext) -> None:
    """NVFlare 2.9 leaves the jobs of a killed server RUNNING for ever (`restore_running_job` has no caller)."""
    for job in manager.get_jobs_by_status([RunStatus.DISPATCHED, RunStatus.RUNNING], fl_ctx) or []:
        logger.warning("job %s was running when the server died: marked as abnormally finished", job.job_id)
        manager.set_status(job.job_id, RunStatus.FINISHED_ABNORMAL, fl_ctx)
