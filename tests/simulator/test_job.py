"""The whole job in NVFlare's simulator, through the command line that a data scientist uses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.wandb_backend.client import BackendState, rows
from tests.wandb_backend.keys import KnownKeys
from tests.wandb_backend.server import WandbBackend

SCRIPT = Path(__file__).parents[2] / "jobs" / "wandb_job.py"
SOURCE = SCRIPT.parents[1] / "src"
SITES = ("site-1", "site-2")
ROUNDS = 2
TIMEOUT = 300


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in `folder`, without a W&B key and without a setting of the one who runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MULTISITE_"))}
    environment["PYTHONPATH"] = str(SOURCE)
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A simulated job that has ended."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @classmethod
    def run(cls, folder: Path, data: Path, *arguments: str) -> Job:
        """Simulates a small job in `folder`."""
        small = ("--dataset", "synthetic", "--limit", "600", "--rounds", str(ROUNDS), "--batch_size", "32")
        return cls(folder, command(folder, *small, "--data", str(data), "--workspace", "ws", *arguments))

    def only(self, name: str) -> Path:
        """The one file of that name in the workspace."""
        (found,) = (self.folder / "ws").rglob(name)
        return found

    def read(self, name: str) -> Any:
        return json.loads(self.only(name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards, prepared by the first job and used by all."""
    return tmp_path_factory.mktemp("shards") / "data"


@pytest.fixture(scope="module")
def through_server(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Job:
    return Job.run(tmp_path_factory.mktemp("server"), data)


@pytest.fixture(scope="module")
def from_sites(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Job:
    return Job.run(tmp_path_factory.mktemp("sites"), data, "--streamed_to_clients", "--no-streamed_to_server")


@pytest.fixture(params=["through_server", "from_sites"])
def job(request: pytest.FixtureRequest) -> Job:
    """Each way of streaming in turn."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_a_job_completes_and_says_what_it_reached_on_which_data(job: Job) -> None:
    assert job.done.returncode == 0, job.done.stdout[-3000:] + job.done.stderr[-3000:]
    for site in SITES:
        assert f"{site}: final global model's accuracy 0." in job.done.stdout
    assert "on SYNTHETIC" in job.done.stdout
    assert f"results: {job.only('rounds.json').parent}" in job.done.stdout


def test_every_site_reports_every_round_and_the_final_model(job: Job) -> None:
    rows = job.read("rounds.json")["rows"]
    assert sorted((row["round"], row["site"]) for row in rows) == [(number, site) for number in range(ROUNDS + 1) for site in SITES]
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert row["loss"] > 0
        assert row["dataset"] == "synthetic"
        assert ("train_loss" in row) is (row["round"] < ROUNDS)
        if row["round"] < ROUNDS:
            assert row["examples"] == 300
            assert row["train_seconds"] > 0


def test_both_sites_measure_the_same_global_model(job: Job) -> None:
    rows = job.read("rounds.json")["rows"]
    for number in range(ROUNDS + 1):
        first, second = ((row["accuracy"], row["loss"]) for row in rows if row["round"] == number)
        assert first == pytest.approx(second, abs=1e-6)


def test_the_rounds_are_a_table_too(job: Job) -> None:
    lines = job.only("rounds.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("round,site,accuracy,loss,")
    assert len(lines) == 1 + len(SITES) * (ROUNDS + 1)


def test_no_site_reports_an_error(job: Job) -> None:
    assert job.read("rounds.json")["errors"] == {}


def test_the_global_model_is_kept_as_finite_arrays(job: Job) -> None:
    weights = load_file(job.only("global_model.safetensors"))
    assert set(weights) >= {"head.weight", "head.bias"}
    assert weights["head.weight"].shape == (10, 128)
    assert all(np.isfinite(value).all() for value in weights.values())
    assert all(value.dtype == np.float32 for value in weights.values())


def named(metrics: list[dict[str, Any]]) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in metrics}


def test_the_final_models_accuracy_is_the_same_in_every_file_and_on_the_screen(job: Job) -> None:
    report, summary = job.read("rounds.json"), job.read("metrics_summary.json")
    accuracies = [row["accuracy"] for row in report["rows"] if row["round"] == ROUNDS]
    final = report["final"]["accuracy"]
    assert sum(accuracies) / len(accuracies) == pytest.approx(final, abs=1e-12)
    assert (summary["final_round"], named(summary["final_aggregated_metrics"])["accuracy"]) == (ROUNDS, final)
    assert f"final global model: accuracy {final:.4f} on SYNTHETIC\n" in job.done.stdout


def test_the_best_model_is_kept_beside_it_and_said_with_its_round_and_what_it_was_chosen_on(job: Job) -> None:
    best, final = (load_file(job.only(name)) for name in ("best_model.safetensors", "global_model.safetensors"))
    assert best.keys() == final.keys()
    report, summary = job.read("rounds.json"), job.read("metrics_summary.json")
    by_round = {done: [row["accuracy"] for row in report["rows"] if row["round"] == done] for done in range(1, ROUNDS + 1)}
    chosen = report["best"]
    assert chosen["accuracy"] == pytest.approx(max(sum(values) / len(values) for values in by_round.values()), abs=1e-12)
    assert (summary["best_round"], named(summary["best_metrics"])) == (chosen["round"], {"accuracy": chosen["accuracy"]})
    assert all(np.array_equal(best[name], final[name]) for name in best) is (chosen["round"] == ROUNDS)
    line = f"best global model: accuracy {chosen['accuracy']:.4f} after round {chosen['round']} (models/best_model.safetensors)"
    assert f"{line}; chosen by its accuracy on the test set" in job.done.stdout


def test_the_account_has_every_site_and_through_the_server_the_server_too(through_server: Job, from_sites: Job) -> None:
    assert set(through_server.read("tracking.json")["sites"]) == {"server", *SITES}
    assert set(from_sites.read("tracking.json")["sites"]) == set(SITES)


def test_without_a_key_everything_that_was_logged_is_kept_and_the_reason_said(job: Job) -> None:
    account = job.read("tracking.json")
    assert (account["state"], account["reason"]) == ("offline", "no API key")
    for site in account["sites"].values():
        assert site["logged"] == site["received"] == site["pending"] > 0
        assert site["delivered"] == site["refused"] == 0
        assert site["closed"]


def test_the_same_rows_are_logged_whichever_way_they_go(through_server: Job, from_sites: Job) -> None:
    one, other = (job.read("tracking.json")["sites"] for job in (through_server, from_sites))
    assert [one[site]["logged"] for site in SITES] == [other[site]["logged"] for site in SITES]


def test_sync_delivers_a_finished_simulation_once_there_is_a_key(through_server: Job, tmp_path: Path) -> None:
    key = "simulator0key" * 4
    spool = tmp_path / "spool"
    shutil.copytree(through_server.folder / "ws" / "spool", spool)
    backend = WandbBackend(("127.0.0.1", 0), KnownKeys({key: "laptop"}))
    backend.start()
    try:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "WANDB_API_KEY": key, "WANDB_BASE_URL": backend.url}
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-m", "multisite.tracking.sync", "--spool", str(spool)], env=environment, capture_output=True,
                text=True, timeout=TIMEOUT, check=False, cwd=tmp_path,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            (report,) = json.loads(done.stdout.splitlines()[-1])["jobs"]
            runs = BackendState.fetch(backend.url).runs()
            assert len(runs) == 3
            for run in runs:
                (name,) = [site for site in report["sites"] if run["display_name"].startswith(site)]
                assert len(rows(run)) == report["sites"][name]["logged"] == report["sites"][name]["delivered"]
                assert not run["duplicate_lines"]
                if name == "server":
                    assert run["summary"]["global/accuracy"] == through_server.read("rounds.json")["final"]["accuracy"]
    finally:
        backend.stop()


def test_the_same_seed_gives_the_same_final_weights(through_server: Job, from_sites: Job) -> None:
    first, second = (load_file(job.only("global_model.safetensors")) for job in (through_server, from_sites))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_a_job_that_diverges_fails_with_the_site_the_reason_and_json_that_is_json(tmp_path: Path, data: Path) -> None:
    job = Job.run(tmp_path, data, "--lr", "1e30")
    assert job.done.returncode == 1, job.done.stdout[-3000:]
    assert re.search(
        r"^site-\d: its result of round 1 is refused: .*the training diverged.*a smaller LR", job.done.stdout, re.MULTILINE
    )
    report = json.loads(job.only("rounds.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert report["complete"] is False
    assert not list((tmp_path / "ws").rglob("global_model.safetensors"))


def test_nothing_is_left_in_the_folder_where_the_job_was_started(job: Job) -> None:
    assert [path.name for path in job.folder.iterdir()] == ["ws"]


def test_an_exported_job_carries_configuration_and_no_code(tmp_path: Path) -> None:
    done = command(tmp_path, "--export", "job", "--alpha", "0.5", "--rounds", "5")
    assert done.returncode == 0, done.stderr
    assert "job written to job" in done.stdout
    files = [path for path in (tmp_path / "job").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json"}
    assert not list((tmp_path / "job").rglob("custom"))
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert '"partition": "dirichlet0.5-seed0"' in text
    assert "multisite.job.executor.TrainingExecutor" in text
    assert "ClientAPIExecutor" not in text
    assert "multisite.tracking.receiver.WandbReceiver" in text
    assert "multisite.job.controller.EvaluatedFedAvg" in text
    assert '"dataset": "unknown"' in text  # nobody has looked


@pytest.mark.parametrize(("more", "place"), [((), "server"), (("--streamed_to_clients", "--no-streamed_to_server"), "client")])
def test_an_exported_job_says_how_w_and_b_is_written_where_it_is_written(tmp_path: Path, more: tuple[str, ...], place: str) -> None:
    assert command(tmp_path, "--export", "job", *more).returncode == 0
    said = [path.name for path in (tmp_path / "job").rglob("*.json") if "wandb_args" in path.read_text(encoding="utf-8")]
    assert said == [f"config_fed_{place}.json"]


@pytest.mark.parametrize(("more", "place"), [((), "server"), (("--streamed_to_clients", "--no-streamed_to_server"), "client")])
def test_nvflares_own_receiver_can_be_chosen_for_comparison(tmp_path: Path, more: tuple[str, ...], place: str) -> None:
    assert command(tmp_path, "--export", "job", "--receiver", "nvflare", *more).returncode == 0
    text = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "job").rglob("config_*.json")}
    assert "wandb_receiver.WandBReceiver" in text[f"config_fed_{place}.json"]
    assert not any("multisite.tracking" in config for config in text.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rounds", "0"), "rounds must be a whole number from 1 to 10000, not 0"),
        (("--lr", "fast"), "--lr"),
        (("--no-streamed_to_server",), "--streamed_to_clients"),
        (("--streamed_to_clients",), "--no-streamed_to_server"),
        (("--network", "resnet"), "network must be one of light, compact, moderate, upstream, not 'resnet'"),
    ],
)
def test_a_bad_option_is_exit_status_2_that_names_it(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = command(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_cifar10_that_can_not_be_had_is_exit_status_2_with_the_next_step(tmp_path: Path) -> None:
    copy = tmp_path / "cifar" / "cifar-10-batches-py"
    copy.mkdir(parents=True)
    (copy / "data_batch_1").write_bytes(b"half a file")
    done = command(tmp_path, "--dataset", "cifar10", "--cifar10", "cifar", "--data", "data", "--workspace", "ws")
    assert done.returncode == 2
    assert "data_batch_1 is not the published file" in done.stderr
    assert "next:" in done.stderr
