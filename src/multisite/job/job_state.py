"""On a site, in a job's process: says every few seconds what the process does, and why its training failed.

So the server knows a long round from a lost one (`watch.py`). A job that has our controller has this on its sites.
"""

from __future__ import annotations

import threading
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants

from multisite.job import messages as job_messages
from multisite.job.progress import SITE_ERROR
from multisite.text import clean

PERIOD_SECONDS = 5.0
NO_TASK = ("", -1)


class JobState(FLComponent):
    """Reports `working`, `sending` or `idle`, and the task whose result was sent last."""

    def __init__(self) -> None:
        super().__init__()
        self._state = "idle"
        self._current: tuple[str, int] = NO_TASK
        self._finished: tuple[str, int] = NO_TASK
        self._error = ""
        self._report_now = threading.Event()
        self._ended = False

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.START_RUN:
            arguments = (fl_ctx.get_engine().get_cell(), job_messages.server_job(fl_ctx.get_job_id()))
            threading.Thread(target=self._run, args=arguments, daemon=True, name="job-state").start()
        elif event_type == EventType.BEFORE_TASK_EXECUTION:
            task = fl_ctx.get_prop(FLContextKey.TASK_DATA)
            round_ = task.get_header(AppConstants.CURRENT_ROUND) if isinstance(task, Shareable) else None
            self._current = (str(fl_ctx.get_prop(FLContextKey.TASK_NAME, "")), -1 if round_ is None else int(round_))
            self._state = "working"
        elif event_type == EventType.BEFORE_SEND_TASK_RESULT:
            self._state = "sending"
        elif event_type == EventType.AFTER_SEND_TASK_RESULT:
            self._state, self._finished = "idle", self._current
        elif event_type == ANALYTIC_EVENT_TYPE:
            self._note_error(fl_ctx)
        elif event_type == EventType.END_RUN:
            self._ended = True
            self._report_now.set()

    def _note_error(self, fl_ctx: FLContext) -> None:
        data = AnalyticsData.from_dxo(from_shareable(fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
        abort = fl_ctx.get_run_abort_signal()
        if data is not None and data.tag == SITE_ERROR and not (abort and abort.triggered):  # or the job ends for another's sake
            self._error = clean(data.value)
            self._report_now.set()

    def report(self) -> dict[str, Any]:
        """The message."""
        return {"state": self._state, "task": self._finished[0], "round": self._finished[1], "error": self._error}

    def _run(self, cell: Any, server: str) -> None:
        while not self._ended:
            try:
                job_messages.send(cell, job_messages.STATE, server, self.report())
            except Exception as error:  # the link may be down: the next report follows
                self.logger.debug(f"no report: {error}")
            self._report_now.wait(PERIOD_SECONDS)
            self._report_now.clear()
