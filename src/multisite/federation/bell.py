"""The server rings when it has a task: a site that waits for the others then asks at once, and seldom in between.

Sites ask for their tasks in NVFlare, the server never sends one. Asking often would cost the server a message for each site and
period, for as long as the slowest site trains.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from multisite.federation.timers import News

TOPIC = "multisite.task"
task_news = News()


def ring(engine: Any, fl_ctx: FLContext) -> None:
    """On the server: tells every site of the job to ask now. Nothing waits for it, and a site that misses it asks at its next period."""
    engine.send_aux_request(targets=None, topic=TOPIC, request=Shareable(), timeout=0.0, fl_ctx=fl_ctx, optional=True)


class TaskBell(FLComponent):
    """The site's side: part of the job."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler(topic=TOPIC, message_handle_func=self._heard)

    def _heard(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        task_news.tell()
        return make_reply(ReturnCode.OK)
