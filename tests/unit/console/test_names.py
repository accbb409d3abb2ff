"""Names on make's command line and in `.env`: a name that means nothing is refused, with the nearest known one."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from multisite.console.names import GIVEN, JOB, OPTIONS, OTHERS, SETTINGS, check_given, given_options, is_foreign
from multisite.console.settings import ConsoleError, Settings
from multisite.job.options import JobOptions, OptionError

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("submit", "ROUND", "ROUND is no option of make submit, and no setting\n  next: is ROUNDS meant?"),
        ("submit", "rounds", "is ROUNDS meant?"),
        ("submit-client-stream", "ALPA", "is ALPHA meant?"),
        ("up", "GPU", "is GPUS meant?"),
        ("up", "XYZZY", "next: `make` lists the options, .env.example the settings"),
        ("up", "ROUNDS", "ROUNDS is no option of make up\n  next: make up without it; it is one of make submit"),
        ("status", "JOB", "JOB is no option of make status"),
        ("abort", "SITE", "it is one of make kit"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(verb: str, given: str, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        check_given(verb, {GIVEN: given, given: "5"})


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("submit", "ROUNDS ALPHA SERVER_PORT"),
        ("up", "GPUS COMPOSE_PROJECT_NAME HTTPS_PROXY"),
        ("abort", "JOB"),
        ("clean", "WHAT"),
        ("down", ""),
    ],
)
def test_a_known_name_is_taken(verb: str, given: str) -> None:
    check_given(verb, {GIVEN: given, **dict.fromkeys(given.split(), "1")})


@pytest.mark.parametrize(
    ("verb", "name"), [("submit", "NETWORK"), ("submit", "SEED"), ("abort", "JOB"), ("up", "LOG"), ("status", "LOG")]
)
def test_an_option_that_only_the_shell_has_is_refused(verb: str, name: str) -> None:
    with pytest.raises(OptionError) as refused:
        check_given(verb, {GIVEN: "", name: "7"})
    assert f"{name}=7 comes from the shell" in str(refused.value)
    assert f"next: make {verb} {name}=7, or: unset {name}" in str(refused.value)
    check_given(verb, {GIVEN: "", name: ""})
    check_given(verb, {GIVEN: name, name: "7"})


def test_an_option_that_the_verb_does_not_have_may_be_in_the_shell() -> None:
    check_given("status", {GIVEN: "", "SEED": "7", "JOB": "x"})


def test_without_make_the_environment_is_what_was_given() -> None:
    check_given("submit", {"ROUNDS": "3", "LOG": "x"})
    assert given_options({"ROUNDS": "3"}) == {"ROUNDS": "3"}
    assert given_options({GIVEN: "ROUNDS LR", "ROUNDS": "3", "SEED": "9"}) == {"ROUNDS": "3"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("LOG=plain\nSERVERPORT=1\n", ".env, line 2: SERVERPORT is no setting\n  next: is SERVER_PORT meant?"),
        ("WANDB_PROJEKT=x\n", "is WANDB_PROJECT meant?"),
        ("ROUNDS=3\n", "ROUNDS is an option of make submit, and no setting\n  next: take it out; make submit ROUNDS=..."),
        ("A=1\n", ".env, line 1: A is no setting"),
        ("A='x\n", ".env, line 1 has a quote that does not end"),
    ],
)
def test_a_line_of_the_env_file_that_means_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    with pytest.raises(ConsoleError, match=re.escape(said)):
        Settings.load(tmp_path)


def test_a_variable_of_the_users_own_compose_file_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("services: {site-1: {environment: {A: '${MY_VALUE:-}', B: $OTHER}}}\n", encoding="utf-8")
    (tmp_path / ".env").write_text("MY_VALUE=1\nOTHER=2\nCOMPOSE_EXTRA=mine.yaml\n", encoding="utf-8")
    assert Settings.load(tmp_path).get("MY_VALUE") == "1"


def test_the_settings_are_those_of_the_example_file() -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    assert re.findall(r"^([A-Z_0-9]+)=", example, re.MULTILINE) == sorted(SETTINGS, key=lambda name: example.index(f"\n{name}="))


def test_every_variable_of_the_compose_files_is_a_setting_or_an_option() -> None:
    files = [PROJECT / "compose.yaml", *(PROJECT / "docker").glob("*.yaml")]
    used = {name for path in files for name in re.findall(r"\$\{([A-Z_0-9]+)", path.read_text(encoding="utf-8"))}
    options = {name for names in OPTIONS.values() for name in names}
    remote = {"KIT", "DATA", "SERVER_ADDRESS", "SITE_IMAGE", "SITE_PROJECT"}  # docker/compose.site.yaml, on a host of its own
    assert {name for name in used - remote if name not in {*SETTINGS, *OTHERS, *options} and not is_foreign(name)} == set()


def test_every_option_of_make_submit_is_an_option_of_the_job() -> None:
    assert {name.lower() for name in JOB} - {field.name for field in fields(JobOptions)} == {"preset", "force"}
