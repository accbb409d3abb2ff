"""W&B's variables in the environment."""

from __future__ import annotations

import os
from typing import Any

import pytest

from multisite.tracking.environment import with_operator_settings
from multisite.tracking.troubles import Refusal

SHELL = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "notes": "WANDB_NOTES", "job_type": "WANDB_JOB_TYPE"}


@pytest.fixture(autouse=True)
def _none_of_them_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("operator", "place"),
    [
        ({"WANDB_ENTITY": "hospital", "WANDB_PROJECT": "study"}, {"entity": "hospital", "project": "study"}),
        ({"WANDB_ENTITY": "hospital"}, {"entity": "hospital", "project": "job"}),
        ({"WANDB_PROJECT": "study"}, {"project": "study"}),  # of the key's own entity
        ({"WANDB_PROJECT": " ", "WANDB_ENTITY": ""}, {"entity": "job", "project": "job"}),
        ({"WANDB_TAGS": "one, two"}, {"entity": "job", "project": "job", "tags": ["one", "two"]}),
    ],
)
def test_what_the_operator_set_goes_before_what_a_job_says(
    monkeypatch: pytest.MonkeyPatch, operator: dict[str, str], place: dict[str, Any]
) -> None:
    for name, value in operator.items():
        monkeypatch.setenv(name, value)
    given = {"entity": "job", "project": "job", "tags": ["job"]}
    assert with_operator_settings(given) == {"tags": ["job"], **place}


@pytest.mark.parametrize(("name", "variable"), SHELL.items())
def test_what_a_person_set_in_the_shell_counts_where_a_job_gives_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    monkeypatch.setenv(variable, " mine ")
    assert with_operator_settings({"project": "job"}) == {"project": "job", name: "mine"}
    assert with_operator_settings({name: "the job's"}) == {name: "the job's"}
    assert with_operator_settings({name: ""}) == {name: ""}


@pytest.mark.parametrize(
    ("variable", "value", "bound"),
    [
        ("WANDB_NAME", "n" * 129, "must be text of at most 128 printable characters"),
        ("WANDB_RUN_GROUP", "a\tb", "must be text of at most 128 printable characters"),
        ("WANDB_JOB_TYPE", "t" * 129, "must be text of at most 128 printable characters"),
        ("WANDB_NOTES", "n" * 10_001, "must be text of at most 10000 characters"),
        ("WANDB_PROJECT", "a/b", "must be a name without any of"),
        ("WANDB_TAGS", f"a,{'t' * 65}", ": each must be text of at most 64 printable characters"),
    ],
)
def test_a_variable_out_of_bounds_is_named_with_the_bound_and_the_next_step(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, bound: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refusal) as refused:
        with_operator_settings({"config": {}})
    assert refused.value.state == "misconfigured"
    for part in (f"{variable}=", bound, "; next: correct it, or unset it"):
        assert part in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_variable_that_does_not_count_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_NAME", "n" * 129)
    assert with_operator_settings({"name": "the job's"}) == {"name": "the job's"}
