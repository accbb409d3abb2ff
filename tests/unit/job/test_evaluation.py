"""One accuracy of the final global model, and one best model, in every file of a job: with NVFlare's own selector and metrics files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector
from nvflare.app_common.widgets.metrics_artifact_writer import MetricsArtifactWriter
from safetensors.numpy import load_file

from multisite.job import controller as module
from multisite.job import outcome
from multisite.job.controller import EvaluatedFedAvg
from multisite.job.evaluation import FinalEvaluation
from multisite.job.persistor import BEST_MODEL, GLOBAL_MODEL, SafetensorsPersistor
from multisite.job.progress import RESULTS, RoundReporter
from tests.unit.controller_run import SITES, Engine, Run, measured, result, weights

ROUNDS = 3
# Accuracy of the global model after so many rounds, by site; the weights' value is the number of rounds, see `answers`.
STEPS = {"site-1": 10, "site-2": 90}
Accuracies = dict[str, list[float]]
BEST_IN_THE_MIDDLE: Accuracies = {"site-1": [0.1, 0.4, 0.7, 0.6], "site-2": [0.1, 0.2, 0.5, 0.5]}
BEST_AT_THE_END: Accuracies = {"site-1": [0.1, 0.4, 0.5, 0.8], "site-2": [0.1, 0.2, 0.5, 0.4]}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "notify_sites", lambda *_: None)


class Job(Run):
    """A job of three rounds, with the components that the recipe gives it."""

    def __init__(self, folder: Path, accuracies: Accuracies, selector: IntimeModelSelector | None = None) -> None:
        def answers(task: str, site: str, done: int) -> Shareable:
            accuracy = accuracies[site][done]
            if task == AppConstants.TASK_VALIDATION:
                return measured(accuracy=accuracy, loss=1 - accuracy)
            return result(weights(done + 1), STEPS[site], accuracy=accuracy, loss=1 - accuracy, train_loss=1.0)

        components: dict[str, FLComponent] = {
            "persistor": SafetensorsPersistor(),
            "model_selector": selector or IntimeModelSelector(key_metric="accuracy"),
            "metrics_artifact_writer": MetricsArtifactWriter(),
            "round_reporter": RoundReporter(ROUNDS),
        }
        self.folder = folder
        controller = EvaluatedFedAvg(num_clients=2, num_rounds=ROUNDS, network="light", most_steps=100)
        super().__init__(controller, answers, engine=Engine(SITES, components, folder))
        assert not self.failed

    def read(self, name: str) -> Any:
        return json.loads((self.folder / "metrics" / name).read_text(encoding="utf-8"))

    def rounds_of(self, name: str) -> float:
        """After how many rounds a model that was kept is."""
        return float(load_file(self.folder / "models" / name)["head.bias"][0])


def named(metrics: list[dict[str, Any]]) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in metrics}


@pytest.mark.parametrize(("accuracies", "final"), [(BEST_IN_THE_MIDDLE, 0.55), (BEST_AT_THE_END, 0.6)])
def test_every_file_gives_the_final_models_accuracy_and_not_that_of_the_one_before(
    accuracies: Accuracies, final: float, tmp_path: Path
) -> None:
    job = Job(tmp_path, accuracies)
    report, summary = job.read(RESULTS), job.read("metrics_summary.json")
    assert report["final"] == {"round": 3, "accuracy": pytest.approx(final), "loss": pytest.approx(1 - final)}
    assert named(summary["final_aggregated_metrics"]) == {name: report["final"][name] for name in ("accuracy", "loss")}
    assert summary["final_round"] == 3
    rows = [row["accuracy"] for row in report["rows"] if row["round"] == 3]
    assert sum(rows) / len(rows) == pytest.approx(report["final"]["accuracy"])
    last = json.loads((tmp_path / "metrics" / "round_metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["round"] == 3
    assert {site["name"]: named(site["metrics"])["accuracy"] for site in last["sites"]} == {
        site: accuracies[site][3] for site in SITES
    }
    assert outcome.lines(report["final"], report["best"], "cifar10")[0] == f"final global model: accuracy {final:.4f} on cifar10"


@pytest.mark.parametrize(("accuracies", "done", "accuracy"), [(BEST_IN_THE_MIDDLE, 2, 0.6), (BEST_AT_THE_END, 3, 0.6)])
def test_the_best_model_is_the_one_with_the_highest_mean_accuracy_the_final_one_included_and_every_file_names_it(
    accuracies: Accuracies, done: int, accuracy: float, tmp_path: Path
) -> None:
    job = Job(tmp_path, accuracies)
    assert (job.rounds_of(BEST_MODEL), job.rounds_of(GLOBAL_MODEL)) == (done, 3)
    report, summary = job.read(RESULTS), job.read("metrics_summary.json")
    assert report["best"] == {"round": done, "accuracy": pytest.approx(accuracy)}
    assert (summary["best_round"], named(summary["best_metrics"])) == (done, {"accuracy": pytest.approx(accuracy)})
    line = outcome.lines(report["final"], report["best"], "cifar10")[1]
    assert line.startswith(f"best global model: accuracy {accuracy:.4f} after round {done} (models/best_model.safetensors)")
    assert "on the test set" in line


def test_a_final_model_that_is_only_as_good_does_not_replace_the_best_one(tmp_path: Path) -> None:
    job = Job(tmp_path, {site: [0.1, 0.3, 0.3, 0.3] for site in SITES})
    assert job.read(RESULTS)["best"]["round"] == 1


def test_a_selector_that_weighs_the_sites_has_nothing_in_common_with_the_final_mean(tmp_path: Path) -> None:
    """By steps, 10 and 90, the model of two rounds has 0.52 and the final one 0.44; every site alike, the final one would be better."""
    job = Job(
        tmp_path,
        BEST_AT_THE_END | {"site-1": [0.1, 0.4, 0.7, 0.8]},
        IntimeModelSelector(weigh_by_local_iter=True, key_metric="accuracy"),
    )
    assert job.rounds_of(BEST_MODEL) == 2


def test_a_selector_of_another_metric_compares_that_one(tmp_path: Path) -> None:
    lowest = IntimeModelSelector(key_metric="loss", negate_key_metric=True)
    job = Job(tmp_path, BEST_AT_THE_END, lowest)
    summary = job.read("metrics_summary.json")
    assert job.rounds_of(BEST_MODEL) == 3
    assert named(summary["best_metrics"]) == {"loss": pytest.approx(0.4)}
    assert summary["key_metric"]["mode"] == "min"


def test_a_job_that_does_not_come_to_its_end_has_no_final_model_in_its_report(tmp_path: Path) -> None:
    components: dict[str, FLComponent] = {"round_reporter": RoundReporter(1)}
    answer = {"train": result(), "validate": None}
    run = Run(
        EvaluatedFedAvg(num_clients=2, num_rounds=1, network="light"),
        lambda task, *_: answer[task],
        engine=Engine(SITES, components, tmp_path),
    )
    assert run.failed
    report = json.loads((tmp_path / "metrics" / RESULTS).read_text(encoding="utf-8"))
    assert (report["final"], report["best"], report["complete"]) == (None, None, False)


def test_a_site_can_not_choose_the_round_of_the_final_model() -> None:
    evaluation = FinalEvaluation(FLModel(params={"w": np.zeros(1)}, current_round=3), needs_accuracy=False)
    evaluation.accept(FLModel(metrics={"round": 99.0, "accuracy": 0.5}))
    said: list[Any] = []

    class Component(FLComponent):
        def fire_event(self, event_type: str, fl_ctx: Any) -> None:
            said.append(fl_ctx.get_prop("__event_data__"))

    engine = Engine()
    with engine.new_context() as fl_ctx:
        evaluation.publish(Component(), fl_ctx)
    assert said[-1]["round"] == 3


@pytest.mark.parametrize(
    ("final", "best", "lines"),
    [
        (None, None, 0),
        ({}, {}, 0),
        ({"round": 3}, {"round": 3}, 0),
        ({"accuracy": "0.9"}, {"accuracy": True}, 0),
        (None, {"accuracy": 0.5, "round": None}, 1),
    ],
)
def test_what_is_not_known_is_not_said(final: Any, best: Any, lines: int) -> None:
    assert len(outcome.lines(final, best, "cifar10")) == lines
