"""The server notifies a job's sites when it has a task for them: until then a site that has nothing to do waits, and asks seldom.

In NVFlare sites ask for their tasks, and the server never sends one. Asking often would cost the server a message for each site and
interval for as long as the slowest site trains, and NVFlare keeps a thread for a minute for each message that it has received.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

TOPIC = "multisite.task"
LONGEST_WAIT_SECONDS = 3.0  # a notice may be lost
ABORT_CHECK_SECONDS = 0.2
FETCH_SECONDS = 0.02  # NVFlare's own wait between two requests for a task, beside the wait for a notice


def notify_sites(engine: Any, fl_ctx: FLContext) -> None:
    """On the server: every site of the job asks now. Nothing waits for an answer."""
    engine.send_aux_request(targets=None, topic=TOPIC, request=Shareable(), timeout=0.0, fl_ctx=fl_ctx, optional=True)


class TaskNotice(FLComponent):
    """On a site: part of the job."""

    def __init__(self) -> None:
        super().__init__()
        self._due = threading.Event()
        self._due.set()  # the first request waits for nothing

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler(topic=TOPIC, message_handle_func=self._on_notice)
        elif event_type == EventType.BEFORE_PULL_TASK:
            self._wait(fl_ctx)

    def _on_notice(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        self._due.set()
        return make_reply(ReturnCode.OK)

    def _wait(self, fl_ctx: FLContext) -> None:
        abort = fl_ctx.get_run_abort_signal()
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while not self._due.wait(ABORT_CHECK_SECONDS) and time.monotonic() < deadline and not (abort and abort.triggered):
            pass
        self._due.clear()
