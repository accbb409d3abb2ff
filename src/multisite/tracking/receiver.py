"""NVFlare's analytics events -> W&B runs. On the server it hears every site; on a site, that site alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import AnalyticsData, AnalyticsDataType, LogWriterName
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import EventScope, FLContextKey, ProcessType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver

from multisite.tracking.key import SECRET
from multisite.tracking.runs import JobRuns
from multisite.tracking.status import STATUS_EVENT

NUMBERS = (AnalyticsDataType.METRIC, AnalyticsDataType.PARAMETER)
GROUPS = (AnalyticsDataType.METRICS, AnalyticsDataType.PARAMETERS)


class WandbReceiver(AnalyticsReceiver):
    """Streams metrics logged with `WandBWriter` to W&B, one run a site, from one process.

    Beside NVFlare's own `WandBReceiver`: rows keep their own x axes, so none is dropped for its step; a site that joins late gets
    its run when it first logs; the key comes from a file and reaches no environment; without a usable key the runs are kept
    offline, and the job's status says so.
    """

    def __init__(
        self,
        wandb_args: dict[str, Any],
        axes: dict[str, str] | None = None,
        events: list[str] | None = None,
        key_file: str = str(SECRET),
    ) -> None:
        """
        Args:
            wandb_args: arguments of `wandb.init`: project, name, job_type, tags, notes, config. WANDB_PROJECT, WANDB_ENTITY and
                WANDB_TAGS in the environment of the server (or the site) come first: that is the operator's say.
            axes: metric pattern -> x axis other than `step`.
            events: events to hear; default: local and federated analytics.
            key_file: file that holds the API key.
        """
        super().__init__(events=events)
        self.wandb_args = wandb_args
        self.axes = axes or {}
        self.key_file = key_file
        self._runs: JobRuns | None = None

    def initialize(self, fl_ctx: FLContext) -> None:
        """Reads the key; runs are opened when a site first logs."""
        self._runs = JobRuns(fl_ctx.get_job_id(), _with_operator_settings(self.wandb_args), self.axes, Path(self.key_file))
        status = self._runs.status
        if status.mode == "offline":
            self.logger.warning(f"W&B: {status.reason}; metrics are kept offline in {status.folder}")
        self._report(fl_ctx)

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Logs one analytics record of the site `record_origin`."""
        data = AnalyticsData.from_dxo(from_shareable(shareable), receiver=LogWriterName.WANDB)
        if data is None or self._runs is None:
            return
        before = (self._runs.status.mode, len(self._runs.status.runs))
        if data.data_type in NUMBERS:
            self._runs.log(record_origin, {data.tag: data.value}, data.step)
        elif data.data_type in GROUPS:
            self._runs.log(record_origin, data.value, data.step)
        # A site's report at the end of the run would reach the server too late: one follows whatever has no step, as rounds have.
        if data.step is None or (self._runs.status.mode, len(self._runs.status.runs)) != before:
            self._report(fl_ctx)

    def finalize(self, fl_ctx: FLContext) -> None:
        """Ends the runs, within a bounded time."""
        if self._runs is not None:
            self._runs.finish()
            status = self._runs.status
            self.logger.info(f"W&B: {status.rows} rows of {len(status.runs)} runs, {status.mode}")
            self._report(fl_ctx)

    def _report(self, fl_ctx: FLContext) -> None:
        """Tells the job's status collector, which is on the server, where the metrics go."""
        assert self._runs is not None
        on_server = fl_ctx.get_process_type() == ProcessType.SERVER_JOB
        message = Shareable()
        message.update({"status": self._runs.status.as_dict(), "writer": "server" if on_server else fl_ctx.get_identity_name()})
        with fl_ctx.get_engine().new_context() as context:
            if on_server:
                context.set_prop(FLContextKey.EVENT_DATA, message, private=True, sticky=False)
                context.set_prop(FLContextKey.EVENT_SCOPE, EventScope.LOCAL, private=True, sticky=False)
                self.fire_event(STATUS_EVENT, context)
            else:
                self.fire_fed_event(STATUS_EVENT, message, context)


def _with_operator_settings(wandb_args: dict[str, Any]) -> dict[str, Any]:
    settings = dict(wandb_args)
    for name in ("project", "entity"):
        if value := os.environ.get(f"WANDB_{name.upper()}", "").strip():
            settings[name] = value
    if tags := [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]:
        settings["tags"] = tags
    return settings
