"""Per-round results on the server: live for whoever asks, and on disk for the job's results."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.widgets.info_collector import InfoCollector
from nvflare.widgets.widget import Widget

from multisite.text import cell, clean, number

STATS_GROUP = "multisite"
SITE_ERROR = "multisite/error"  # tag of a text that a site's training script logs before it fails, see `job_state.py`
PROBLEM_EVENT = "multisite_problem"  # data: site -> reason; the job ends
COMPLETE_EVENT = "multisite_complete"  # data: `final`, see RoundReporter; every round and the final evaluation are done
RESULTS = "rounds.json"
TABLE = "rounds.csv"
COLUMNS = (
    "round", "site", "accuracy", "loss", "evaluate_seconds",
    "train_loss", "train_accuracy", "train_seconds", "trained_at", "examples", "dataset",
)  # fmt: skip
TEXTS = ("dataset",)
LONGEST_NAME = 60


class RoundReporter(Widget):
    """Collects what each site reports in each round.

    A row is one site's report: `accuracy` and `loss` are of the global model after `round` rounds, on the test set; the
    `train_*` columns are of the local training that follows, which ended at `trained_at` (seconds since the epoch, by the site's
    clock), and absent in the last row (the final evaluation).

    Live: the rows are part of NVFlare's job stats (`nvflare job stats`, `Session.show_stats`). On disk: `metrics/rounds.json`
    and `metrics/rounds.csv` in the job's folder, rewritten whenever a site reports.

    `final` is the mean over the sites of what they measured of the final global model, from the controller (`evaluation.py`), and
    `best` the global model that is kept as the best so far: after which round it is, and its accuracy as the model selector has it.
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
        self._complete = False
        self._final: dict[str, float] | None = None
        self._best: dict[str, float] | None = None
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
        elif event_type == PROBLEM_EVENT:
            self._accept_problems(fl_ctx.get_prop(FLContextKey.EVENT_DATA))
        elif event_type == AppEventType.GLOBAL_BEST_MODEL_AVAILABLE:
            self._note_best(fl_ctx.get_prop(AppConstants.METRICS_SELECTION_INFO))
        elif event_type == COMPLETE_EVENT:
            self._final, self._complete = fl_ctx.get_prop(FLContextKey.EVENT_DATA), True
            self._save()
        elif event_type == InfoCollector.EVENT_TYPE_GET_STATS:
            collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
            collector.set_info(STATS_GROUP, self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """Everything reported so far.

        Returns:
            started (seconds since the epoch), round (1-based), rounds, rows, errors (by site), final and best (see the class; None
            before there is one), complete (every round and the final evaluation are done).
        """
        with self._lock:
            return {
                "started": self._started,
                "round": self._round + 1,
                "rounds": self._rounds,
                "rows": list(self._rows),
                "errors": dict(self._errors),
                "final": self._final,
                "best": self._best,
                "complete": self._complete,
            }

    def _note_best(self, selection: object) -> None:
        chosen = selection if isinstance(selection, dict) else {}
        round_, accuracy = chosen.get("best_round"), number((chosen.get("best_metrics") or {}).get("accuracy"))
        if isinstance(round_, int) and accuracy is not None:
            self._best = {"round": round_, "accuracy": accuracy}
            self._save()

    def _accept(self, fl_ctx: FLContext) -> None:
        result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
        if result is None or fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED) is not True:
            return
        model = FLModelUtils.from_shareable(result)
        reported = {**(model.meta or {}), **(model.metrics or {})}
        numbers = {name: number(reported.get(name)) for name in COLUMNS if name not in TEXTS}
        row: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
        row |= {name: clean(reported.get(name, ""), LONGEST_NAME) for name in TEXTS}
        row["round"] = int(fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0))
        row["site"] = fl_ctx.get_peer_context().get_identity_name()  # the controller refuses a name that is not the sender's
        with self._lock:
            self._rows.append({name: row[name] for name in COLUMNS if name in row})
        self.logger.info(_describe(row, self._rounds))
        self._save()

    def _accept_problems(self, problems: dict[str, str]) -> None:
        with self._lock:
            self._errors |= {clean(site, LONGEST_NAME): clean(reason) for site, reason in problems.items()}
        for site, reason in problems.items():
            self.logger.error(f"{clean(site, LONGEST_NAME)} failed: {clean(reason)}")
        self._save()

    def _save(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        snapshot = self.snapshot()
        _replace(self._folder / RESULTS, json.dumps(snapshot, indent=1, allow_nan=False))
        with open(self._folder / f".{TABLE}", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({name: cell(value) for name, value in row.items()} for row in snapshot["rows"])
        os.replace(self._folder / f".{TABLE}", self._folder / TABLE)


def _describe(row: dict[str, Any], rounds: int) -> str:
    accuracy = f"global model after round {row['round']}: accuracy {_shown(row, 'accuracy', '.4f')}"
    if row["round"] >= rounds:
        return f"{row['site']}: {accuracy} (final)"
    examples, seconds = _shown(row, "examples", ".0f"), _shown(row, "train_seconds", ".1f")
    trained = f"trained on {examples} examples in {seconds} s, loss {_shown(row, 'train_loss', '.3f')}"
    return f"{row['site']}: round {row['round'] + 1}/{rounds}: {trained}; {accuracy}"


def _shown(row: dict[str, Any], name: str, form: str) -> str:
    value = row.get(name)
    return "-" if value is None else format(value, form)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
