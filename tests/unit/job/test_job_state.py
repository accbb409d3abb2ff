"""What a site's job process reports while it works, and of what it failed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.app_constant import AppConstants

from multisite.job import job_state
from multisite.job import messages as job_messages
from multisite.job.job_state import JobState
from multisite.job.progress import SITE_ERROR

SECONDS = 20.0


class Engine:
    """A site's engine in a job's process."""

    def get_cell(self) -> str:
        return "the cell"


class Sent:
    """The reports that were sent."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.targets: set[str] = set()
        self._came = threading.Condition()

    def __call__(self, cell: str, topic: str, target: str, content: dict[str, Any]) -> None:
        with self._came:
            self.reports.append(content)
            self.targets.add(target)
            self._came.notify_all()

    def wait_for(self, **wanted: object) -> None:
        with self._came:
            assert self._came.wait_for(lambda: any(report.items() >= wanted.items() for report in self.reports), SECONDS), (
                self.reports
            )


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    monkeypatch.setattr(job_messages, "send", sent)
    monkeypatch.setattr(job_state, "PERIOD_SECONDS", 0.01)
    return sent


def context(**properties: Any) -> FLContext:
    fl_ctx = FLContext()
    fl_ctx.set_prop(ReservedKey.ENGINE, Engine(), private=True, sticky=False)
    fl_ctx.set_prop(ReservedKey.RUN_NUM, "job-1", private=False, sticky=False)
    for name, value in properties.items():
        fl_ctx.set_prop(name, value, private=True, sticky=False)
    return fl_ctx


def error(text: str, **properties: Any) -> FLContext:
    dxo = create_analytic_dxo(tag=SITE_ERROR, value=text, data_type=AnalyticsDataType.TEXT)
    return context(**{FLContextKey.EVENT_DATA: dxo.to_shareable(), **properties})


def test_a_round_is_reported_from_work_to_the_sent_result(sent: Sent) -> None:
    component, task = JobState(), Shareable()
    task.set_header(AppConstants.CURRENT_ROUND, 3)
    component.handle_event(EventType.START_RUN, context())
    sent.wait_for(state="idle", task="", round=-1)
    component.handle_event(
        EventType.BEFORE_TASK_EXECUTION, context(**{FLContextKey.TASK_DATA: task, FLContextKey.TASK_NAME: "train"})
    )
    sent.wait_for(state="working", task="", round=-1)
    component.handle_event(EventType.BEFORE_SEND_TASK_RESULT, context())
    sent.wait_for(state="sending", round=-1)
    component.handle_event(EventType.AFTER_SEND_TASK_RESULT, context())
    sent.wait_for(state="idle", task="train", round=3)
    component.handle_event(EventType.END_RUN, context())
    assert sent.targets == {"server.job-1"}


def test_an_error_of_the_training_script_is_reported_as_plain_text(sent: Sent) -> None:
    component = JobState()
    component.handle_event(EventType.START_RUN, context())
    component.handle_event(ANALYTIC_EVENT_TYPE, error("ShardError: none\n\x1b[2Jjob 1 completed"))
    sent.wait_for(error="ShardError: none job 1 completed")
    component.handle_event(EventType.END_RUN, context())


def test_a_script_that_fails_because_its_job_was_aborted_has_no_error_to_report(sent: Sent) -> None:
    component, aborted = JobState(), Signal()
    aborted.trigger(True)
    component.handle_event(ANALYTIC_EVENT_TYPE, error("RuntimeError: abort", **{ReservedKey.RUN_ABORT_SIGNAL: aborted}))
    assert component.report()["error"] == ""
