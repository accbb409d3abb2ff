"""W&B runs of one job, all in this process: opened when first needed, online where the key works, else offline."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import wandb

from multisite.tracking.key import SECRET, KeyProblem, read_key

STEP = "step"
FINISH_SECONDS = 30
# A writer in a server or a hospital: no console capture, no machine statistics, no code, no error reports to a third party.
QUIET_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}  # read before any run's settings
QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "init_timeout": 15,
    "finish_timeout": FINISH_SECONDS,
}

logger = logging.getLogger(__name__)


@dataclass
class TrackingStatus:
    """Where the metrics of one writer went: mode is `online` or `offline`, reason says why it is offline."""

    mode: str
    reason: str = ""
    folder: str = ""
    url: str = ""
    runs: list[str] = field(default_factory=list)
    rows: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class JobRuns:
    """The W&B runs of one job.

    One run a name, grouped by job. Rows keep their own x axis (`step`, or what `axes` says), in whatever order they arrive.
    A missing, malformed or refused key, or a backend that does not answer, never stops a job: the runs go to files.
    """

    def __init__(self, job_id: str, settings: dict[str, Any], axes: dict[str, str], key_file: Path = SECRET) -> None:
        """
        Args:
            job_id: NVFlare's; part of the group's and each run's name.
            settings: arguments of `wandb.init` (project, entity, tags, config, job_type, name, ...).
            axes: metric pattern -> x axis, for example {"test/*": "round"}; every other metric goes by `step`.
            key_file: file that holds the API key.
        """
        for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
            del os.environ[name]  # Compose passes unset ones as empty, which the SDK takes for values
        os.environ.update(QUIET_ENVIRONMENT)
        self._job_id = job_id
        self._settings = dict(settings)
        self._axes = axes
        self._runs: dict[str, wandb.Run] = {}
        self._folder = Path(os.environ.get("WANDB_DIR") or ".") / job_id
        self._base_url = os.environ.get("WANDB_BASE_URL", "").strip()
        self._key = ""
        try:
            self._key = read_key(key_file)
            self.status = TrackingStatus("online", folder=str(self._folder), url=self._base_url)
        except KeyProblem as problem:
            self.status = TrackingStatus("offline", str(problem), folder=str(self._folder))

    def log(self, name: str, metrics: dict[str, Any], step: int | None) -> None:
        """Adds one history row to the run of `name` (a site)."""
        row = dict(metrics)
        if step is not None:
            row[STEP] = step
        self._run(name).log(row)
        self.status.rows += 1

    def finish(self) -> None:
        """Ends the runs. Waits at most FINISH_SECONDS a run for the backend; what it did not take stays in the run's files."""
        for run in self._runs.values():
            run.finish()
        self._runs.clear()

    def _run(self, name: str) -> wandb.Run:
        if name not in self._runs:
            self._runs[name] = self._open(name)
        return self._runs[name]

    def _open(self, name: str) -> wandb.Run:
        if self.status.mode == "online":
            try:
                return self._init(name, "online")
            except (wandb.Error, OSError, ValueError) as error:
                self._key_refused(error)
        return self._init(name, "offline")

    def _key_refused(self, error: Exception) -> None:
        self.status.mode = "offline"
        host = self._base_url or "W&B"
        if "not logged in" in str(error) or isinstance(error, wandb.errors.AuthenticationError):
            self.status.reason = f"{host} refused the API key"
        else:
            self.status.reason = f"{host} did not accept the run ({type(error).__name__}: {str(error)[:200]})"
        logger.warning("W&B: %s; metrics are kept offline in %s", self.status.reason, self._folder)

    def _init(self, name: str, mode: str) -> wandb.Run:
        self._folder.mkdir(parents=True, exist_ok=True)
        base_name = self._settings.get("name") or "run"
        run = wandb.init(
            **{
                **self._settings,
                "name": f"{name}-{base_name}",
                "group": self._settings.get("group") or f"{base_name}-{self._job_id}",
                "config": {**self._settings.get("config", {}), "job_id": self._job_id, "site": name},
                "dir": str(self._folder),
                "mode": mode,
                "reinit": "create_new",
                "settings": self._sdk_settings(),
            }
        )
        run.define_metric("*", step_metric=STEP)
        for pattern, axis in self._axes.items():
            run.define_metric(pattern, step_metric=axis)
        self.status.runs.append(run.id)
        return run

    def _sdk_settings(self) -> wandb.Settings:
        settings = dict(QUIET)
        if self.status.mode == "online":
            settings["api_key"] = self._key
            if self._base_url:
                settings["base_url"] = self._base_url
        if interval := os.environ.get("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL"):
            settings["x_file_stream_transmit_interval"] = float(interval)
        return wandb.Settings(**settings)
