"""On a site: every metric that the training script logs goes to the site's disk first."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData, AnalyticsDataType, LogWriterName, TrackConst
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.widgets.widget import Widget

from multisite.text import clean
from multisite.tracking.arguments import checked_axes, checked_flag, checked_wandb_args, job_settings
from multisite.tracking.files import read_json, refused_count, save_json
from multisite.tracking.forwarder import ROUTE
from multisite.tracking.locks import is_locked
from multisite.tracking.origin import Origin
from multisite.tracking.records import LogWriter, RecordRefused, RecordTooLong
from multisite.tracking.spool import Job, Spool, job_name, root
from multisite.tracking.values import plain_metrics

SINGLE = (AnalyticsDataType.METRIC, AnalyticsDataType.SCALAR, AnalyticsDataType.PARAMETER)
GROUPED = (AnalyticsDataType.METRICS, AnalyticsDataType.PARAMETERS)
RECORDER = "multisite.recorder."  # and the site's name: where the patch `metric_log` looks for `MetricsRecorder._take`
OWN = "multisite/"  # so begin the tags of this project's own messages in NVFlare's events: they are no metrics
LOG_SECONDS = 30.0  # between two lines about refused metrics
REOPEN_SECONDS = 5.0
REFUSED_BYTES = 512
REFUSED_NAME_CHARACTERS = 200
MOST_NAMED = 100  # refused names that are said, of a job


class MetricsRecorder(Widget):
    """Puts what `WandBWriter` (or any NVFlare analytics sender) logs into the site's record log, from where the tracking agent sends it.

    With an in-process training script a metric is on the disk before `log` returns. With the patch `metric_log` every value comes as it
    was logged; without it (PATCHES=none, the simulator) as NVFlare's event, which carries numbers alone. A full disk costs metrics,
    which are counted and said, and never the training.
    """

    def __init__(self, forward: bool = True, wandb_args: dict[str, Any] | None = None, axes: dict[str, str] | None = None) -> None:
        """
        Args:
            forward: send the records to the server.
            wandb_args: deliver them from this site, with these arguments of `wandb.init`: `arguments.WANDB_ARGUMENTS`.
            axes: metric pattern -> x axis other than `step`; with `wandb_args`.

        Raises:
            ArgumentRefused: one of them is not what a job may give; the job fails on this site with that reason.
        """
        super().__init__()
        self.forward = checked_flag("forward", forward)
        self.wandb_args = None if wandb_args is None else checked_wandb_args(wandb_args)
        self.axes = checked_axes({} if axes is None else axes)
        self._site = ""
        self._origin: Origin | None = None
        self._log: LogWriter | None = None
        self._lock = threading.Lock()
        self._ended = "completed"
        self._refused = 0
        self._named: set[str] = set()
        self._logged_at = 0.0
        self._opened = 0.0

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.ABOUT_TO_START_RUN:
            self._start(fl_ctx)
        elif event_type == ANALYTIC_EVENT_TYPE:
            self._take_event(fl_ctx)
        elif event_type == EventType.FATAL_SYSTEM_ERROR:
            self._ended = "failed"
        elif event_type == EventType.ABORT_TASK and self._ended == "completed":
            if fl_ctx.get_prop(FLContextKey.RUN_ABORT_REQUESTED):  # a normal end aborts the task of a site that is late
                self._ended = "aborted"
                self._note_end()  # before END_RUN, which waits for the script: NVFlare kills the process after 10 s
        elif event_type == EventType.END_RUN:
            DataBus().put_data(RECORDER + self._site, None)
            self._note_end()
            if self._log is not None:
                self._log.close()
                self._log = None
                self._origin = None

    def _note_end(self) -> None:
        if self.wandb_args is not None and self._origin is not None:
            Job(self._origin.folder.parent).note_end(self._ended, self.logger)

    def _start(self, fl_ctx: FLContext) -> None:
        spool = Spool(root(fl_ctx.get_engine().get_workspace().get_root_dir()))
        self._site = fl_ctx.get_identity_name()
        job = spool.job(job_name(fl_ctx.get_job_id()))
        self._origin = job.origin(self._site)
        DataBus().put_data(RECORDER + self._site, self._take)
        try:
            save_json(self._origin.folder / ROUTE, {"forwards": self.forward}, durable=True)
            if self.wandb_args is not None:
                save_json(job.settings_file, job_settings(job.id, self._site, self.wandb_args, self.axes), durable=True)
            self._reserve_refused()
        except OSError as error:
            self.logger.error(f"the metrics of this job have no place: {self._origin.folder}: {error.strerror}; training goes on")
        self._open()
        if not is_locked(spool.agent_lock):
            self.logger.warning(f"no tracking agent runs here: metrics stay in {self._origin.folder} (docs/metrics.md)")

    def _open(self) -> None:
        assert self._origin is not None
        self._opened = time.monotonic()
        try:
            self._log = LogWriter(self._origin.log)
        except (OSError, RecordRefused) as error:
            self._log_refusal(str(error))

    def _take_event(self, fl_ctx: FLContext) -> None:
        dxo = from_shareable(fl_ctx.get_prop(FLContextKey.EVENT_DATA))
        # as its sender's: translated for W&B, `add_scalars` would lose its tag
        data = AnalyticsData.from_dxo(dxo, receiver=dxo.get_meta_prop(TrackConst.TRACKER_KEY))
        if data is not None:
            self._take(data.tag, data.value, data.data_type, {"global_step": data.step}, from_event=True)

    def _take(self, key: str, value: Any, data_type: AnalyticsDataType, rest: dict[str, Any], from_event: bool = False) -> bool:
        """Records one metric. What other writers log goes on to NVFlare's events, and is recorded from there."""
        if not from_event and rest.get("writer") != LogWriterName.WANDB:
            return False
        if data_type in SINGLE:
            metrics = {key: value}
        elif data_type in GROUPED:
            metrics = value
        elif data_type == AnalyticsDataType.SCALARS:
            metrics = {f"{key}/{name}": scalar for name, scalar in value.items()} if isinstance(value, dict) else value
        else:
            self._refuse_kind(key, data_type)
            return False
        if self._origin is None:
            return False  # the job has ended
        if self._log is None and time.monotonic() - self._opened > REOPEN_SECONDS:
            self._open()
        taken, refused = plain_metrics(metrics)
        try:
            self._record(taken, refused, rest.get("global_step"))
        except RecordRefused as problem:
            self._count_refused(1)
            self._log_refusal(str(problem))
        if refused:
            self._count_refused(len(refused))
            self._log_refused_names(refused)
        return True

    def _refuse_kind(self, key: str, data_type: AnalyticsDataType) -> None:
        """Counts what another of NVFlare's writers logs and no row can have: a text, a tag, an image."""
        if not key.startswith(OWN):
            self._count_refused(1)
            reason = f"{str(data_type).rpartition('.')[2]} is not delivered; next: log text with WandBWriter"
            self._log_refused_names({clean(key, REFUSED_NAME_CHARACTERS): reason})

    def _record(self, metrics: dict[str, Any], refused: dict[str, str], step: Any) -> None:
        """Adds one record; where it is too long, without its longest metrics, which are refused.

        Raises:
            RecordRefused: nothing was added.
        """
        if self._log is None:
            raise RecordRefused("the record log can't be opened")
        while metrics or not refused:
            try:
                self._log.log(metrics, step)
                return
            except RecordTooLong as problem:
                if not metrics:
                    raise
                excess, sizes = problem.excess, {name: _length(name, value) for name, value in metrics.items()}
                for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
                    if excess > 0:
                        refused[clean(name, REFUSED_NAME_CHARACTERS)] = str(problem)
                        del metrics[name]
                        excess -= sizes[name]

    def _count_refused(self, count: int) -> None:
        with self._lock:
            self._refused += count
            self._save_refused()

    def _log_refused_names(self, refused: dict[str, str]) -> None:
        """Says each name once."""
        for name, reason in refused.items():
            if name not in self._named and len(self._named) < MOST_NAMED:
                self._named.add(name)
                self.logger.error(
                    f"{name!r} is refused on {self._site}: {reason}. The call's other metrics are kept; training goes on"
                )

    def _log_refusal(self, reason: str) -> None:
        if time.monotonic() - self._logged_at > LOG_SECONDS or not self._logged_at:
            self._logged_at = time.monotonic()
            self.logger.error(
                f"metrics are refused on {self._site}: {reason}; {self._refused} so far. Training goes on."
                f"{' Next: free space on the volume of the spool' if os.strerror(errno.ENOSPC) in reason else ''}"
            )

    def _reserve_refused(self) -> None:
        """Room for the count is taken while there is some: it is needed when there is none."""
        assert self._origin is not None
        if self._origin.refused.exists():
            self._refused = read_json(self._origin.refused, refused_count)[0].get("count", 0)
        else:
            self._origin.refused.write_text(_padded(0), encoding="utf-8")

    def _save_refused(self) -> None:
        if self._origin is None:
            return
        try:
            descriptor = os.open(self._origin.refused, os.O_WRONLY)
            try:
                os.pwrite(descriptor, _padded(self._refused).encode(), 0)
            finally:
                os.close(descriptor)
        except OSError:
            return  # the log has the count


def _length(name: str, value: Any) -> int:
    """Of a metric in a record, with its comma."""
    return len(json.dumps({name: value}, separators=(",", ":"))) - 1


def _padded(count: int) -> str:
    return json.dumps({"count": count}).ljust(REFUSED_BYTES)
