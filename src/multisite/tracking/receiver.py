"""On the server: a job's metrics, from the first round to the account at its end."""

from __future__ import annotations

import os
import shutil
import stat
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from filelock import Timeout
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.widgets.info_collector import InfoCollector
from nvflare.widgets.widget import Widget

from multisite.tracking.arguments import checked_artifact, checked_axes, checked_wait_seconds, checked_wandb_args, job_settings
from multisite.tracking.delivery import Delivery
from multisite.tracking.files import save_json
from multisite.tracking.locks import is_locked
from multisite.tracking.records import LogWriter, RecordRefused
from multisite.tracking.spool import BLOCKED, SERVER, Job, Spool, job_name, name_simulation, root

ABORTED = "multisite_aborted"  # in NVFlare's context: a controller fails the job only because somebody aborted it
MODELS = "models"  # the folder of a run that the job's persistor writes
AXES = {"round": "round", "global/*": "round", "sites/*": "round"}
SITE_NAMES, NAME_CHARACTERS = 100, 128  # of the numbers that one site reports with its model
STATS_GROUP = "tracking"
FILE = "tracking.json"
WAIT_SECONDS = 30.0
CLOSE_SECONDS = 10.0
POLL_SECONDS = 0.1


class WandbReceiver(Widget):
    """Says how a job's metrics go to W&B, adds the server's own, and keeps the job's account.

    Beside NVFlare's own `WandBReceiver`: it handles no metric events. Records arrive through the tracking agents, which outlive the job.
    The server's own run has, a row a round: the mean over the sites of every number that they report with their model, how many
    took part, and when the model was the best so far.
    """

    def __init__(
        self,
        wandb_args: dict[str, Any] | None = None,
        axes: dict[str, str] | None = None,
        wait_seconds: float = WAIT_SECONDS,
        artifact: str = "",
    ) -> None:
        """
        Args:
            wandb_args: arguments of `wandb.init`, of those that a job may give: `arguments.WANDB_ARGUMENTS`. WANDB_PROJECT,
                WANDB_ENTITY and WANDB_TAGS in the server's environment come first: that is for the operator to decide. None: the sites
                deliver.
            axes: metric pattern -> x axis other than `step`.
            wait_seconds: how long the end of the job waits until everything is delivered; an hour at most.
            artifact: name of the final global model's file in the run's folder `models`; it becomes an artifact of the server's run.

        Raises:
            ArgumentRefused: one of them is not what a job may give; the job fails with that reason.
        """
        super().__init__()
        self.wandb_args = None if wandb_args is None else checked_wandb_args(wandb_args)
        self.axes = checked_axes({**AXES, **checked_axes({} if axes is None else axes)})
        self.wait_seconds = checked_wait_seconds(wait_seconds)
        self.artifact = checked_artifact(artifact)
        name_simulation()  # NVFlare's simulator makes its components anew for each simulation, before it starts a site's process
        self._job: Job | None = None
        self._log: LogWriter | None = None
        self._own_delivery: Delivery | None = None
        self._lock = threading.Lock()
        self._round = 0
        self._reports: dict[str, dict[str, float]] = {}
        self._sites: list[str] = []
        self._run_folder = Path()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.START_RUN:
            self._start(fl_ctx)
        elif event_type == AppEventType.AFTER_CONTRIBUTION_ACCEPT:
            self._collect(fl_ctx)
        elif event_type == AppEventType.GLOBAL_BEST_MODEL_AVAILABLE:
            self._record({"global/best_round": int(fl_ctx.get_prop(AppConstants.CURRENT_ROUND, self._round)), "round": self._round})
        elif event_type == InfoCollector.EVENT_TYPE_GET_STATS and self._job is not None:
            fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR).set_info(STATS_GROUP, self._job.report())
        elif event_type == EventType.END_RUN and self._job is not None:
            self._end(how_it_ended(fl_ctx))

    def _start(self, fl_ctx: FLContext) -> None:
        engine = fl_ctx.get_engine()
        spool = Spool(root(engine.get_workspace().get_root_dir()))
        self._job = spool.job(job_name(fl_ctx.get_job_id()))
        self._run_folder = Path(engine.get_workspace().get_run_dir(fl_ctx.get_job_id()))
        self._sites = [client.name for client in engine.get_clients()]
        try:
            if not is_locked(spool.agent_lock):  # no agent runs here (the simulator, say): this job delivers for itself
                self._own_delivery = Delivery(spool)
                self._own_delivery.start()
        except Timeout:
            self._own_delivery = None
        if self.wandb_args is None:
            return
        try:
            self._log = LogWriter(self._job.origin(SERVER).log)
            settings = job_settings(self._job.id, SERVER, self.wandb_args, self.axes, bool(self.artifact))
            save_json(self._job.settings_file, settings, durable=True)
        except (OSError, RecordRefused) as error:
            self.logger.error(f"the metrics of this job have no place: {error}; next: free space on the server's volume")

    def _collect(self, fl_ctx: FLContext) -> None:
        result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
        if result is None or result.get_return_code() != "OK" or fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED) is False:
            return
        round_ = int(fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0))
        metrics = FLModelUtils.from_shareable(result).metrics or {}
        with self._lock:
            if round_ != self._round:
                self._flush()
                self._round = round_
            site = fl_ctx.get_peer_context().get_identity_name()
            self._reports[site] = _numbers(metrics)

    def _flush(self) -> None:
        """The row of the round that has ended: the global model that it began with, as the sites measured it."""
        reports, self._reports = self._reports, {}
        if not reports:
            return
        row: dict[str, Any] = {"round": self._round, "sites/reported": len(reports)}
        for name in sorted({name for report in reports.values() for name in report}):
            row[f"global/{name}"] = statistics.fmean(report[name] for report in reports.values() if name in report)
        row |= {f"sites/{site}": 1 for site in reports}
        self._record(row)

    def _record(self, row: dict[str, Any]) -> None:
        if self._log is None:
            return
        try:
            self._log.log(row, None)
        except RecordRefused as refused:
            self.logger.error(f"the server's own metrics are refused: {refused}")

    def _end(self, ended: str) -> None:
        assert self._job is not None
        with self._lock:
            self._flush()
        self._keep_model()
        if self._log is not None:
            self._job.note_end(ended, self.logger)
            self._log.close()
            self._log = None
        report = self._wait()
        if self._own_delivery is not None:
            self._own_delivery.stop()
        save_json(self._run_folder / "metrics" / FILE, report)
        delivered = sum(site["delivered"] for site in report["sites"].values())
        why = f" ({report['reason']})" if report["reason"] else ""
        self.logger.info(f"W&B: {delivered} records delivered, {report['pending']} pending{why}")

    def _keep_model(self) -> None:
        if not self.artifact or self._job is None:
            return
        try:
            with open(_model_in(self._run_folder / MODELS, self.artifact), "rb") as model, open(self._job.model_file, "wb") as copy:
                shutil.copyfileobj(model, copy)
        except OSError as error:
            self.logger.error(
                f"the final model is not uploaded: {MODELS}/{self.artifact}: {error.strerror or error}; the job's results have it"
            )

    def _wait(self) -> dict[str, Any]:
        """The account, as soon as it is complete and nothing is pending, or at the end of the time."""
        assert self._job is not None
        started = time.monotonic()
        while True:
            report = self._job.report()
            waited = time.monotonic() - started
            closed = all(report["sites"].get(site, {}).get("closed") for site in self._sites)
            delivered = not report["pending"] and not (self._own_delivery and report["unfinished"])
            settled = (closed and delivered) or report["state"] in BLOCKED or waited > self.wait_seconds
            if settled and (closed or waited > CLOSE_SECONDS):
                return report
            time.sleep(POLL_SECONDS)


def how_it_ended(fl_ctx: FLContext) -> str:
    """How the job ended on the server, at END_RUN: one of `arguments.ENDED`."""
    if fl_ctx.get_prop(FLContextKey.FATAL_SYSTEM_ERROR) and not fl_ctx.get_prop(ABORTED):
        return "failed"
    abort = fl_ctx.get_run_abort_signal()
    return "aborted" if abort is not None and abort.triggered else "completed"


def _numbers(metrics: Any) -> dict[str, float]:
    """The numbers of a site's report. Bounded: one site's names must not make the round's row too long to be taken."""
    found: dict[str, float] = {}
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(name, str) and len(name) <= NAME_CHARACTERS and name.isprintable() and isinstance(value, (int, float)):
            try:
                found[name] = float(value)
            except OverflowError:
                continue
        if len(found) >= SITE_NAMES:
            break
    return found


def _model_in(folder: Path, name: str) -> int:
    """An open descriptor of the regular file `name` that lies in `folder`, wherever links lead.

    Raises:
        OSError: there is none.
    """
    place = (folder / name).resolve(strict=True)
    if place.parent != folder.parent.resolve() / folder.name:
        raise OSError(f"it does not lie in {folder}")
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return descriptor
