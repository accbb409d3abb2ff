"""What a job may say of its metrics: whoever may submit one chooses the arguments of both components."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from nvflare.apis.event_type import EventType

from multisite.job.options import JobOptions
from multisite.job.persistor import GLOBAL_MODEL
from multisite.job.recipe import Cifar10Recipe
from multisite.tracking.arguments import WANDB_ARGUMENTS, ArgumentRefused
from multisite.tracking.receiver import WandbReceiver
from multisite.tracking.recorder import MetricsRecorder
from multisite.tracking.spool import JOB_VARIABLE, ROOT_VARIABLE, Spool

COMPONENTS = [WandbReceiver, MetricsRecorder]
OF_THE_CLIENT = sorted(set(inspect.signature(wandb.init).parameters) - set(WANDB_ARGUMENTS))
EVERYTHING: dict[str, Any] = {
    "project": "my project",
    "entity": "team",
    "name": "run",
    "group": "group",
    "job_type": "train",
    "tags": ["a", "b"],
    "notes": "two\nlines",
    "config": {"lr": 0.1, "nested": {"list": [1, None, True, "x"]}, "diverged": math.nan},
}


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_a_job_may_say_is_taken_as_it_is(component: type[Any]) -> None:
    assert component(wandb_args=EVERYTHING).wandb_args == EVERYTHING
    assert component(wandb_args={"project": None, "name": "n"}).wandb_args == {"name": "n"}
    assert component(axes={"val/*": "round", "loss": "epoch"}).axes.items() >= {"val/*": "round", "loss": "epoch"}.items()


def test_the_shipped_jobs_are_among_what_a_job_may_say() -> None:
    for options in (JobOptions(log_model=True), JobOptions(streamed_to_server=False, streamed_to_clients=True)):
        Cifar10Recipe(options)
    assert WandbReceiver(artifact=GLOBAL_MODEL).artifact == GLOBAL_MODEL


def test_every_other_argument_of_the_client_is_known_to_be_refused() -> None:
    assert {"dir", "settings", "mode", "id", "resume", "save_code", "sync_tensorboard", "fork_from"} <= set(OF_THE_CLIENT)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("name", [*OF_THE_CLIENT, "base_url", "", "Project"])
def test_an_argument_that_is_not_on_the_list_is_refused_by_its_name(component: type[Any], name: str) -> None:
    with pytest.raises(ArgumentRefused, match=f"{name!r} is not allowed in a job"):
        component(wandb_args={"project": "p", name: "x"})


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


BAD_ARGUMENTS = [
    ("project", "../other"), ("project", "a/b"), ("project", "a?b"), ("project", "x" * 129), ("project", 5), ("project", "a\nb"),
    ("entity", "a/b"), ("entity", ["x"]), ("name", "x" * 129), ("name", "a\x1b[2Jb"), ("name", {"a": 1}), ("group", "\u202e"),
    ("job_type", 1.5), ("notes", 5), ("notes", "x" * 10_001), ("notes", "\x1b[2J"),
    ("tags", "abc"), ("tags", [1]), ("tags", ["x" * 65]), ("tags", ["x"] * 33), ("tags", {"a": 1}),
    ("config", "/kit/startup/server.key"), ("config", ["x"]), ("config", {"a": object()}), ("config", {1: 2}), ("config", {"a": b"x"}),
    ("config", nested(30)), ("config", {"a": "x" * 70_000}), ("config", {"_wandb": {}}),
    ("config", {"a": "wandb-artifact://team/p/model:v0"}), ("config", {"a": [{"_type": "artifactVersion"}]}),
]  # fmt: skip


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS)
def test_an_argument_of_another_kind_is_refused_by_its_name(component: type[Any], name: str, value: Any) -> None:
    with pytest.raises(ArgumentRefused, match=f"wandb_args: {name}"):
        component(wandb_args={name: value})


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("value", ["x", [], 5, [("project", "p")]])
def test_arguments_that_are_no_object_are_refused(component: type[Any], value: Any) -> None:
    with pytest.raises(ArgumentRefused, match="wandb_args must be an object"):
        component(wandb_args=value)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    "axes",
    ["x", ["a"], {"a": 1}, {"a": None}, {"": "a"}, {"a": ""}, {"*a*": "b"}, {"a": "b*"}, {"a\n": "b"}, {"x" * 257: "a"},
     {str(n): "a" for n in range(101)}],
)  # fmt: skip
def test_axes_that_the_client_would_not_take_are_refused(component: type[Any], axes: Any) -> None:
    with pytest.raises(ArgumentRefused, match="axes"):
        component(axes=axes)


@pytest.mark.parametrize("seconds", [-1, 3601, math.nan, math.inf, True, "30", None, [1], 10**400])
def test_a_jobs_end_waits_an_hour_at_most(seconds: Any) -> None:
    assert WandbReceiver(wait_seconds=3600).wait_seconds == 3600
    with pytest.raises(ArgumentRefused, match="wait_seconds must be a number from 0 to 3600"):
        WandbReceiver(wait_seconds=seconds)


@pytest.mark.parametrize("forward", ["no", 1, None, []])
def test_forward_is_yes_or_no(forward: Any) -> None:
    with pytest.raises(ArgumentRefused, match="forward must be true or false"):
        MetricsRecorder(forward=forward)


@pytest.mark.parametrize(
    "name",
    ["../startup/server.key", "/kit/startup/server.key", "*", "*.safetensors", "global_model.*", "a/b", "..", ".", ".hidden", "a\\b",
     "a\0b", "x" * 129, Path("x"), 5, None, ["x"]],
)  # fmt: skip
def test_an_artifact_is_the_plain_name_of_a_file(name: Any) -> None:
    with pytest.raises(ArgumentRefused, match="artifact must be the plain name"):
        WandbReceiver(artifact=name)


@pytest.mark.parametrize(
    ("component", "event", "where"),
    [
        (WandbReceiver(EVERYTHING, {"val/*": "round"}, 0, GLOBAL_MODEL), EventType.START_RUN, ("server", True)),
        (MetricsRecorder(wandb_args=EVERYTHING, axes={"val/*": "round"}), EventType.ABOUT_TO_START_RUN, ("site-1", False)),
    ],
)
def test_what_the_components_write_is_what_the_writer_reads(
    component: WandbReceiver | MetricsRecorder, event: str, where: tuple[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    workspace = SimpleNamespace(get_root_dir=lambda: "/nowhere", get_run_dir=lambda job: str(tmp_path / "run"))
    engine = SimpleNamespace(get_workspace=lambda: workspace, get_clients=lambda: [])
    context: Any = SimpleNamespace(get_engine=lambda: engine, get_job_id=lambda: "job-1", get_identity_name=lambda: "site-1")
    context.get_prop = context.get_run_abort_signal = lambda *name: None
    component.handle_event(event, context)
    try:
        settings, problem = Spool(tmp_path).job("job-1").read_settings()
    finally:
        component.handle_event(EventType.END_RUN, context)
    assert problem == ""
    assert (settings["owner"], settings["artifact"]) == where
    assert settings["axes"].items() >= {"val/*": "round"}.items()
    assert settings["wandb"] == {**EVERYTHING, "config": {**EVERYTHING["config"], "diverged": None}}  # JSON has no NaN
