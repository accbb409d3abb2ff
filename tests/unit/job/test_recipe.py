"""What an exported job says: where it runs, who takes part, and what its shards hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multisite.job.options import DATASETS, JobOptions
from multisite.job.recipe import NAME, Cifar10Recipe

SITES = ["site-1", "site-3"]


def exported(folder: Path, options: JobOptions, sites: list[str]) -> dict[str, Any]:
    """The job's files, by their path in it."""
    Cifar10Recipe(options, sites).export(str(folder))
    job = folder / NAME
    return {str(path.relative_to(job)): json.loads(path.read_text(encoding="utf-8")) for path in job.rglob("*.json")}


def controller(server: dict[str, Any]) -> dict[str, Any]:
    (workflow,) = server["workflows"]
    return dict(workflow["args"])


def component(config: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [component for component in config["components"] if component["id"] == name]
    return dict(found)


def test_a_job_of_named_sites_is_deployed_to_those_and_to_no_other(tmp_path: Path) -> None:
    files = exported(tmp_path, JobOptions(sites=2, seed=7), SITES)
    deployed = [site for sites in files["meta.json"]["deploy_map"].values() for site in sites]
    assert sorted(deployed) == ["server", *SITES]
    assert files["meta.json"]["min_clients"] == 2
    arguments = controller(files["app_server/config/config_fed_server.json"])
    assert (arguments["num_clients"], arguments["sites"], arguments["seed"]) == (2, SITES, 7)
    one, other = (files[f"app_{site}/config/config_fed_client.json"] for site in SITES)
    assert one == other
    assert [executor["executor"]["path"] for executor in one["executors"]] == ["multisite.job.executor.TrainingExecutor"]
    assert {"task_notice", "job_state", "metrics_recorder"} <= {part["id"] for part in one["components"]}
    assert one["default_task_fetch_interval"] < 1


def test_a_job_that_names_no_sites_is_deployed_to_all_and_has_the_seed_of_the_draw(tmp_path: Path) -> None:
    files = exported(tmp_path, JobOptions(sites=2, seed=7), [])
    assert files["meta.json"]["deploy_map"] == {"app": ["@ALL"]}
    arguments = controller(files["app/config/config_fed_server.json"])
    assert (arguments["num_clients"], arguments.get("sites", []), arguments["seed"]) == (2, [], 7)


@pytest.mark.parametrize("sites", [["site-1"], ["site-1", "site-1"], ["site-1", "site-2", "site-3"]])
def test_names_that_are_not_as_many_as_the_options_say_are_refused(sites: list[str]) -> None:
    with pytest.raises(ValueError, match="sites must be 2 different names"):
        Cifar10Recipe(JobOptions(sites=2), sites)


@pytest.mark.parametrize(
    ("dataset", "recorded"), [("auto", "unknown"), ("unknown", "unknown"), ("cifar10", "cifar10"), ("synthetic", "SYNTHETIC")]
)
@pytest.mark.parametrize("clients", [False, True])
def test_what_the_shards_hold_is_recorded_and_what_nobody_knows_is_unknown(
    tmp_path: Path, dataset: str, recorded: str, clients: bool
) -> None:
    options = JobOptions(dataset=dataset, streamed_to_server=not clients, streamed_to_clients=clients)
    files = exported(tmp_path, options, [])
    place, name = ("client", "metrics_recorder") if clients else ("server", "wandb_receiver")
    wandb = component(files[f"app/config/config_fed_{place}.json"], name)["args"]["wandb_args"]
    assert wandb["config"]["dataset"] == recorded
    assert wandb["tags"] == ["fedavg", recorded.lower()]
    assert dataset in DATASETS


def test_the_best_model_is_chosen_by_accuracy_with_every_site_alike_as_the_final_evaluation_has_it(tmp_path: Path) -> None:
    selector = component(exported(tmp_path, JobOptions(), [])["app/config/config_fed_server.json"], "model_selector")
    assert selector["path"].endswith("IntimeModelSelector")
    assert selector["args"].pop("key_metric") == "accuracy"
    assert not any(selector["args"].get(name) for name in ("weigh_by_local_iter", "aggregation_weights", "negate_key_metric"))
