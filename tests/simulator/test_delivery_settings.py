"""What a job and the operator may set of the delivery to W&B, with the real client against the stand-in backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multisite.tracking.backend import INTERVAL
from multisite.tracking.files import save_json
from multisite.tracking.receiver import WandbReceiver
from multisite.tracking.recorder import MetricsRecorder
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER
from multisite.tracking.writer import EXIT_SETTINGS
from tests.simulator.delivery import Site, wait_for
from tests.wandb_backend.operations import DEFAULT_ENTITY


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"wandb": {"project": "p", "dir": "/tmp"}, "owner": SERVER}, "'dir' is not allowed"),
        ({"wandb": {"config": "/kit/startup/server.key"}, "owner": SERVER}, "config must be an object"),
        ({"wandb": {"project": "p"}, "axes": {"*x*": "round"}, "owner": SERVER}, "axes"),
        ({"wandb": {"project": "p"}, "owner": "../x"}, "owner"),
        ({"wandb": {"project": "p"}, "owner": SERVER, "artifact": 5}, "artifact"),
    ],
)
def test_settings_that_no_job_may_give_are_not_delivered_by_and_are_said(site: Site, settings: dict[str, Any], reason: str) -> None:
    other = site.spool.job("job-2")
    save_json(other.settings_file, settings)
    log = LogWriter(other.origin("site-1").log)
    log.log({"value": 1}, 1)
    log.close()
    site.log(3)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and other.report()["state"] == "misconfigured")
    assert reason in other.report()["reason"]
    done = subprocess.run([sys.executable, "-m", "multisite.tracking.writer", str(other.folder), str(site.key)], check=False)
    assert done.returncode == EXIT_SETTINGS
    assert [run["display_name"] for run in site.state().runs()] == ["site-1-n"]


def test_the_place_of_the_model_is_no_setting(site: Site, tmp_path: Path) -> None:
    """A job.json from before, and one that somebody wrote: only the file of the job's own folder goes to W&B."""
    secret = tmp_path / "server.key"
    secret.write_text("a key", encoding="utf-8")
    settings = {"wandb": {"project": "p", "name": "n"}, "axes": {}, "owner": SERVER, "artifact": str(secret)}
    save_json(site.job.settings_file, settings)
    site.logs[SERVER].log({"round": 1}, None)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert not site.state().document["artifacts"]
    assert secret.exists()


OPERATORS = [
    ({"WANDB_ENTITY": "hospital", "WANDB_PROJECT": "study"}, ("hospital", "study")),
    ({"WANDB_ENTITY": "hospital"}, ("hospital", "elsewhere")),
    ({"WANDB_PROJECT": "study"}, (DEFAULT_ENTITY, "study")),
    ({}, ("attacker", "elsewhere")),
]


@pytest.mark.parametrize("component", ["receiver", "recorder"])
@pytest.mark.parametrize(("operator", "place"), OPERATORS)
def test_the_operators_entity_and_project_are_never_a_jobs_to_choose(
    site: Site, monkeypatch: pytest.MonkeyPatch, component: str, operator: dict[str, str], place: tuple[str, str]
) -> None:
    for name, value in operator.items():
        monkeypatch.setenv(name, value)
    wanted = {"project": "elsewhere", "entity": "attacker"}
    given = {**wanted, "group": "attacker/elsewhere", "name": "n", "config": {**wanted, "settings": wanted}}
    cls = WandbReceiver if component == "receiver" else MetricsRecorder
    arguments = cls(wandb_args=given).wandb_args
    assert arguments is not None
    save_json(site.job.settings_file, {"wandb": arguments, "axes": {}, "owner": SERVER})
    site.log(1)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    (found,) = site.state().document["runs"].values()
    assert (found["entity"], found["project"]) == place


def test_name_group_and_job_type_of_the_shell_are_a_runs_where_the_job_gives_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE"):
        monkeypatch.setenv(name, f"my {name}")
    save_json(site.job.settings_file, {"wandb": {"project": "p", "job_type": "the job's"}, "axes": {}, "owner": SERVER})
    site.log(1)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    (run,) = site.state().runs()
    assert (run["display_name"], run["group"], run["job_type"]) == ("site-1-my WANDB_NAME", "my WANDB_RUN_GROUP", "the job's")


def test_a_group_of_the_shell_that_w_and_b_does_not_take_is_said_and_does_not_restart_the_writer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "g" * 129)
    site.log(1)
    wait_for(lambda: site.report()["state"] == "misconfigured")
    assert site.report()["reason"].startswith("WANDB_RUN_GROUP=ggg")
    writer = site.writer()
    assert writer is not None
    assert writer.poll() is None


@pytest.mark.parametrize("interval", ["abc", "0.5", "1.5"])
def test_an_interval_that_w_and_b_does_not_take_is_said_and_does_not_restart_the_writer(
    site: Site, monkeypatch: pytest.MonkeyPatch, interval: str
) -> None:
    monkeypatch.setenv(INTERVAL, interval)
    site.log(1)
    wait_for(lambda: site.report()["state"] == "misconfigured")
    assert (
        site.report()["reason"]
        == f"WANDB_TRANSMIT_SECONDS={interval} is no whole number above 0; next: correct it in .env, make up"
    )
    writer = site.writer()
    assert writer is not None
    assert writer.poll() is None


def test_offline_sends_nothing_and_keeps_everything_for_a_sync(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    site.log(3)
    site.end()
    wait_for(lambda: site.report()["state"] == "offline")
    assert "WANDB_MODE=offline" in site.report()["reason"]
    assert site.report()["pending"] == 3
    assert not site.state().document["runs"]
    monkeypatch.delenv("WANDB_MODE")
    site.spool.sync_file.touch()
    wait_for(lambda: site.report()["state"] == "done")
    assert site.values() == [0, 1, 2]
