"""Per-round results on the server: live for whoever asks, and on disk for the job's results."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.widgets.info_collector import InfoCollector
from nvflare.widgets.widget import Widget

STATS_GROUP = "multisite"
SITE_ERROR = "multisite/error"
SITE_ERROR_EVENT = "fed.analytix_log_stats"
RESULTS = "rounds.json"
TABLE = "rounds.csv"
COLUMNS = (
    "round", "site", "accuracy", "loss", "evaluate_seconds",
    "train_loss", "train_accuracy", "train_seconds", "trained_at", "examples", "dataset",
)  # fmt: skip


class RoundReporter(Widget):
    """Collects what each site reports in each round.

    A row is one site's report: `accuracy` and `loss` are of the global model after `round` rounds, on the test set; the
    `train_*` columns are of the local training that follows, which ended at `trained_at` (seconds since the epoch, by the site's
    clock), and absent in the last row (the final evaluation).

    Live: the rows are part of NVFlare's job stats (`nvflare job stats`, `Session.show_stats`). On disk: `metrics/rounds.json`
    and `metrics/rounds.csv` in the job's folder, rewritten whenever a site reports.
    """

    def __init__(self, rounds: int) -> None:
        """
        Args:
            rounds: rounds of the job, for the log.
        """
        super().__init__()
        self._rounds = rounds
        self._rows: list[dict[str, Any]] = []
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()
        self._started = time.time()
        self._round = 0
        self._folder: Path | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.START_RUN:
            run = fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())
            self._folder = Path(run) / "metrics"
        elif event_type == AppEventType.ROUND_STARTED:
            self._round = int(fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0))
            self.logger.info(f"round {self._round + 1}/{self._rounds} started")
        elif event_type == AppEventType.AFTER_CONTRIBUTION_ACCEPT:
            self._accept(fl_ctx)
        elif event_type == SITE_ERROR_EVENT:
            self._accept_error(fl_ctx)
        elif event_type == InfoCollector.EVENT_TYPE_GET_STATS:
            collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
            collector.set_info(STATS_GROUP, self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """Everything reported so far: started (seconds since the epoch), round (1-based), rounds, rows, errors by site."""
        with self._lock:
            return {
                "started": self._started,
                "round": self._round + 1,
                "rounds": self._rounds,
                "rows": list(self._rows),
                "errors": dict(self._errors),
            }

    def _accept(self, fl_ctx: FLContext) -> None:
        result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
        site = fl_ctx.get_peer_context().get_identity_name()
        if result is None or result.get_return_code() != "OK":
            return
        model = FLModelUtils.from_shareable(result)
        told = {**(model.metrics or {}), "dataset": "", **(model.meta or {})}
        row = {"round": int(fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0)), "site": site}
        row |= {name: told[name] for name in COLUMNS if name in told}
        with self._lock:
            self._rows.append(row)
        self.logger.info(_describe(row, self._rounds))
        self._save()

    def _accept_error(self, fl_ctx: FLContext) -> None:
        data = AnalyticsData.from_dxo(from_shareable(fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
        if data is None or data.tag != SITE_ERROR:
            return
        site = fl_ctx.get_prop(FLContextKey.EVENT_DATA).get_peer_prop(ReservedKey.IDENTITY_NAME, None) or "a site"
        with self._lock:
            self._errors[site] = str(data.value)
        self.logger.error(f"{site} failed: {data.value}")
        self._save()

    def _save(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        snapshot = self.snapshot()
        _replace(self._folder / RESULTS, json.dumps(snapshot, indent=1))
        with open(self._folder / f".{TABLE}", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(snapshot["rows"])
        os.replace(self._folder / f".{TABLE}", self._folder / TABLE)


def _describe(row: dict[str, Any], rounds: int) -> str:
    accuracy = f"global model after round {row['round']}: accuracy {row.get('accuracy', float('nan')):.4f}"
    if "train_loss" not in row:
        return f"{row['site']}: {accuracy} (final)"
    trained = f"trained on {row['examples']:.0f} examples in {row['train_seconds']:.1f} s, loss {row['train_loss']:.3f}"
    return f"{row['site']}: round {row['round'] + 1}/{rounds}: {trained}; {accuracy}"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
