"""The tracking agent: lives in the parent process of a site or of the server, and so outlives every job (`local/resources.json`)."""

from __future__ import annotations

import threading
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import CellMessageHeaderKeys, new_cell_message
from nvflare.private.fed.server.server_engine import ServerEngine

from multisite.tracking.delivery import Delivery
from multisite.tracking.forwarder import Forwarder
from multisite.tracking.intake import Intake, Knows
from multisite.tracking.spool import Spool, root

CHANNEL = "multisite_tracking"
TOPIC = "records"
BUSY_SECONDS, JOB_SECONDS, IDLE_SECONDS = 0.2, 0.5, 2.0  # between looks: values come; a job runs; none does
ANSWER_SECONDS = 10.0
SLOWEST_LINE = 100_000  # bytes a second: a message has the time for them beside


class TrackingAgent(FLComponent):
    """On a site: sends its logs to the server. On the server: takes them in. On both: runs W&B writers for the jobs that say so.

    Job processes load this component too; there it never starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._delivery: Delivery | None = None
        self._stopped = threading.Event()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.SYSTEM_START and self._delivery is None:
            engine = fl_ctx.get_engine()
            workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
            spool = Spool(root(workspace.get_root_dir() if workspace else fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT, ".")))
            try:
                self._delivery = Delivery(spool)
            except OSError as error:  # another agent, or no disk: without one the participant still works
                self.logger.error(f"no metrics leave this machine: {spool.agent_lock}: {error}")
                return
            self._delivery.start()
            if isinstance(engine, ServerEngine):
                self._take_in(engine, Intake(spool, known_jobs(engine)))
            else:
                threading.Thread(target=self._forward, args=(engine, spool), daemon=True, name="metrics-forwarder").start()
        elif event_type == EventType.SYSTEM_END:
            self._stopped.set()
            if self._delivery is not None:
                self._delivery.stop()

    def _take_in(self, engine: Any, intake: Intake) -> None:
        def take(request: Message) -> Message:
            # CLIENT_NAME has passed NVFlare's authentication filter: the server signed it together with the token.
            site = str(request.get_header(CellMessageHeaderKeys.CLIENT_NAME) or "")
            answer = new_cell_message({}, intake.take(site, request.payload))
            answer.set_header(MessageHeaderKey.RETURN_CODE, ReturnCode.OK)
            return answer

        engine.cell.core_cell.register_request_cb(channel=CHANNEL, topic=TOPIC, cb=take)

    def _forward(self, engine: Any, spool: Spool) -> None:
        def send(message: dict[str, Any]) -> dict[str, Any] | None:
            cell = engine.get_cell()
            if cell is None:
                return None
            # The core cell: the streaming one above it keeps a thread for every request, hundreds of them.
            answer = cell.core_cell.send_request(
                channel=CHANNEL,
                topic=TOPIC,
                target=FQCN.ROOT_SERVER,
                request=new_cell_message({}, message),
                timeout=ANSWER_SECONDS + len(message["data"]) / SLOWEST_LINE,
                optional=True,
            )
            if answer.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK or not isinstance(answer.payload, dict):
                return None
            return answer.payload

        forwarder = Forwarder(spool, send)
        pause = JOB_SECONDS
        while not self._stopped.wait(pause):
            try:
                busy = forwarder.tick()
                pause = BUSY_SECONDS if busy else JOB_SECONDS if engine.get_all_job_ids() else IDLE_SECONDS
            except Exception as error:
                self.logger.error(f"forwarding metrics: {type(error).__name__}: {error}")
                pause = JOB_SECONDS


def known_jobs(engine: Any) -> Knows:
    """Whether NVFlare's job store has a job of that id: it looks at that job's own folder, however many there are."""

    def knows(job_id: str) -> bool:
        manager = engine.get_component(SystemComponents.JOB_MANAGER)
        with engine.new_context() as fl_ctx:
            return manager is not None and manager.get_job(job_id, fl_ctx) is not None

    return knows
