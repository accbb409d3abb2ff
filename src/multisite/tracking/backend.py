"""Weights & Biases, as the writer sees it: runs that can be continued, and what the backend has of their rows.

Every row carries who it is: `records/number` and `records/attempt`; the job and the site are in the run's config. What the backend has is
the number of its last row, from the run's `historyKeys` (W&B's own check of a server reads them so: `wandb/sdk/verify/verify.py`). So
rows that somebody else adds to a run are not taken for ours.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from multisite.text import clean
from multisite.tracking.arguments import checked_axes, checked_wandb_args
from multisite.tracking.environment import drop_empty_settings, with_operator_settings
from multisite.tracking.run import ATTEMPT, DELIVERED, NUMBER, Run
from multisite.tracking.troubles import Refusal, has_no_such_field, refusal

API_SECONDS = 20
INIT_SECONDS = 20
FINISH_SECONDS = 25.0
TRANSMIT_SECONDS = 5
INTERVAL = "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL"
SWEEP = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")  # of an agent that this process runs under: `wandb.init` would ignore our ids
# No console capture, no machine statistics, no code, no reports to a third party; the record log is the only journal.
ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}  # read before any run's settings
QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_skip_transaction_log": True,
    "init_timeout": INIT_SECONDS,
    "finish_timeout_raises": True,
}


@dataclass(frozen=True)
class Place:
    """What the backend has of one run.

    Attributes:
        lines: history rows, whoever sent them.
        attempt, number: of the last row of ours; 0 if there is none.
        ended_with: rows of ours that the summary of a finished run says it has.
    """

    lines: int = 0
    attempt: int = 0
    number: int = 0
    ended_with: int = 0


def run_id(job: str, site: str) -> str:
    """The W&B run of one site in one job: always the same."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", f"{job}-{site}")
    return plain if len(plain) <= 64 and "." not in site else hashlib.sha256(f"{job}/{site}".encode()).hexdigest()[:32]


def transmit_seconds() -> float:
    """Between two transmissions of W&B's client, as the operator set it (WANDB_TRANSMIT_SECONDS in `.env`).

    The client takes whole seconds: it cuts 1.5 to 1, and 0.5 to its own 15.

    Raises:
        Refusal: it is no whole number above 0.
    """
    text = os.environ.get(INTERVAL, "").strip() or str(TRANSMIT_SECONDS)
    if not (text.isdecimal() and len(text) <= 9 and int(text)):
        raise Refusal(
            "misconfigured",
            f"WANDB_TRANSMIT_SECONDS={clean(text, 40)} is no whole number above 0; next: correct it in .env, make up",
        )
    return float(text)


class Backend:
    """One job's runs at the backend."""

    def __init__(self, job_settings: dict[str, Any], job_id: str, key: str, folder: Path) -> None:
        """Asks the backend who the key belongs to.

        Args:
            job_settings: `Job.settings`: `wandb` (arguments of `wandb.init`), `axes` (metric pattern -> x axis other than `step`), `job`
                (as the user knows it; default: NVFlare's id), `attempt`.
            job_id: NVFlare's.
            key: the API key.
            folder: for the SDK's own files.

        Raises:
            ArgumentRefused: the settings are not those that a job may give.
            Refusal: it does not answer, or refuses the key; or a setting is wrong.
        """
        arguments, self._axes = checked_wandb_args(job_settings.get("wandb", {})), checked_axes(job_settings.get("axes", {}))
        drop_empty_settings()
        for name in SWEEP:
            os.environ.pop(name, None)
        os.environ.update(ENVIRONMENT)
        self.interval = transmit_seconds()
        self._job_id, self._key, self._folder = job_id, key, folder
        self._job = str(job_settings.get("job") or job_id)
        attempt = job_settings.get("attempt", 1)
        self._numbered, self._attempt = attempt > 0, max(1, attempt)  # see `checked_settings`
        self._settings = with_operator_settings(arguments)
        self.url = os.environ.get("WANDB_BASE_URL", "").strip().rstrip("/")
        self.host = self.url or "W&B"
        self.can_be_asked = True  # what it has; one that counted nothing so far may not be
        self._has_counted = False
        folder.mkdir(parents=True, exist_ok=True)
        overrides = {"base_url": self.url} if self.url else {}
        try:
            self._api = wandb.Api(overrides=overrides, timeout=API_SECONDS, api_key=key)
            self.entity: str = self._settings.get("entity") or self._api.default_entity or ""
        except Exception as error:  # the SDK raises a dozen kinds, ValidationError and TypeError among them
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> Refusal:
        return refusal(self.host, error)

    def places(self, sites: Sequence[str]) -> dict[str, Place]:
        """What the backend has of each site's run, of those runs that it knows. Nothing where it can't be asked.

        Raises:
            Refusal: it does not answer.
        """
        if not self.can_be_asked:
            return {}
        by_id = {run_id(self._job, site): site for site in sites}
        path = f"{self.entity}/{self._settings.get('project') or 'uncategorized'}"
        try:
            self._api.flush()  # it remembers answers
            found = self._api.runs(path, filters={"name": {"$in": list(by_id)}}, per_page=100, include_sweeps=False, lazy=False)
            places = {by_id[run.id]: _place(run) for run in found if run.id in by_id}
            self._has_counted |= any(place.lines for place in places.values())
            return places
        except ValueError as error:
            if "not find project" in str(error):  # made with its first run
                return {}
            raise self._refusal(error) from None
        except Exception as error:  # as above
            if not self._has_counted and has_no_such_field(error):
                self.can_be_asked = False
                return {}
            raise self._refusal(error) from None

    def counts_nothing(self, place: Place, sent: int) -> bool:
        """Whether it has a finished run with all `sent` rows, by that run's summary, and counts no row of any run."""
        return not self._has_counted and place.ended_with == sent

    def records_in(self, place: Place) -> int:
        """How many of a site's records of this attempt the backend has. Before rows carried their number, record n was line n."""
        if place.attempt:
            return place.number if place.attempt == self._attempt else 0
        return 0 if self._numbered else place.lines

    def has_model(self) -> bool:
        """Whether the backend has the job's model."""
        project = self._settings.get("project") or "uncategorized"
        try:
            return bool(self._api.artifact_exists(f"{self.entity}/{project}/model-{self._job_id}:latest", type="model"))
        except Exception as error:  # as above
            raise self._refusal(error) from None

    def open(self, site: str, known: bool = False, finish_seconds: float = FINISH_SECONDS) -> Run:
        """The run of `site`, new or continued.

        Args:
            site: whose.
            known: the backend has this run already: it keeps the name that somebody may have given it.
            finish_seconds: how long its finish may take.

        Raises:
            Refusal: the backend did not accept it.
        """
        name = self._settings.get("name") or "run"
        arguments = {
            **self._settings,
            "id": run_id(self._job, site),
            "resume": "allow",
            "name": "" if known else f"{site}-{name}",  # None would let WANDB_NAME in
            "group": self._settings.get("group") or f"{name}-{self._job}",
            "config": {**self._settings.get("config", {}), "job": self._job, "job_id": self._job_id, "site": site},
            "dir": str(self._folder),
            "mode": "online",
            "reinit": "create_new",
            "settings": self._sdk_settings(finish_seconds),
        }
        try:
            run = wandb.init(**arguments)
            return Run(run, self._axes, self._attempt)
        except Exception as error:  # as above
            raise self._refusal(error) from None

    def _sdk_settings(self, finish_seconds: float) -> wandb.Settings:
        settings = {**QUIET, "api_key": self._key, "finish_timeout": finish_seconds}
        settings["x_file_stream_transmit_interval"] = self.interval
        if self.url:
            settings["base_url"] = self.url
        return wandb.Settings(**settings)


def _place(run: Any) -> Place:
    """Of a run that the public API listed (`historyKeys`: by name of a metric the last row's value, `previousValue`)."""
    keys = (run.history_keys or {}).get("keys", {})
    values = [keys.get(name, {}).get("previousValue") for name in (ATTEMPT, NUMBER)]
    attempt, number = (int(value) if isinstance(value, (int, float)) else 0 for value in values)
    ended_with = run.summary.get(DELIVERED)
    return Place(int(run.historyLineCount or 0), attempt, number, ended_with if isinstance(ended_with, int) else 0)
