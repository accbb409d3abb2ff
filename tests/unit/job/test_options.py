"""The job's options: the same by flag and by make variable, every bad value refused by name."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisite.job import options as job_options
from multisite.job.options import HELP, MAX_SITES, NETWORKS, JobOptions, OptionError


def parse(*arguments: str) -> JobOptions:
    """The options of a command line."""
    parser = argparse.ArgumentParser()
    job_options.add_arguments(parser)
    return job_options.from_arguments(parser.parse_args(arguments))


GIVEN = {
    "rounds": 20,
    "local_epochs": 3,
    "batch_size": 64,
    "lr": 0.05,
    "alpha": 0.5,
    "network": "upstream",
    "sites": 5,
    "seed": 7,
    "dataset": "synthetic",
}


def test_flags_and_make_variables_give_the_same_options() -> None:
    by_flag = parse(*(f"--{name}={value}" for name, value in GIVEN.items()))
    by_variable = job_options.from_variables({name.upper(): str(value) for name, value in GIVEN.items()})
    assert by_flag == by_variable == JobOptions(**GIVEN)  # type: ignore[arg-type]


def test_a_dataset_that_is_unknown_survives_the_command_line() -> None:
    assert parse(*JobOptions(dataset="unknown").as_arguments()).dataset == "unknown"


def test_no_flag_and_no_variable_give_the_defaults() -> None:
    assert parse() == job_options.from_variables({}) == JobOptions()


def test_empty_variables_and_those_of_others_are_ignored() -> None:
    variables = {"ROUNDS": "", "ALPHA": "  ", "PATH": "/bin", "rounds": "99"}
    assert job_options.from_variables(variables) == JobOptions()


def test_a_variable_may_have_spaces_around_it() -> None:
    assert job_options.from_variables({"ROUNDS": " 3 ", "NETWORK": " upstream "}) == JobOptions(rounds=3, network="upstream")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("rounds", -1),
        ("rounds", 10_001),
        ("local_epochs", 0),
        ("local_epochs", 1_001),
        ("batch_size", 0),
        ("batch_size", 10_001),
        ("sites", 0),
        ("sites", MAX_SITES + 1),
        ("seed", -1),
        ("seed", 2**31),
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("alpha", 0.0),
        ("alpha", -1.0),
        ("alpha", float("nan")),
        ("network", "resnet"),
        ("dataset", "mnist"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_option_and_value(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as refused:
        JobOptions(**{name: value})
    assert str(refused.value).startswith(f"{name} must be ")
    assert str(value) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rounds", 1), ("rounds", 10_000), ("sites", MAX_SITES), ("seed", 0), ("seed", 2**31 - 1), ("alpha", None), ("alpha", 1e-3)],
)
def test_a_value_at_the_edge_is_accepted(name: str, value: Any) -> None:
    assert getattr(JobOptions(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [("ROUNDS", "many"), ("ROUNDS", "2.5"), ("LR", "0,1"), ("SEED", "0x1"), ("ALPHA", "x")])
def test_a_variable_that_is_no_number_is_an_error_that_names_it(name: str, value: str) -> None:
    with pytest.raises(OptionError) as refused:
        job_options.from_variables({name: value})
    assert f"{name}={value} is not a number" in str(refused.value)


def test_a_variable_out_of_range_is_an_error_that_names_it() -> None:
    with pytest.raises(OptionError, match=r"rounds must be .* not 0"):
        job_options.from_variables({"ROUNDS": "0"})


@pytest.mark.parametrize("arguments", [("--no-streamed_to_server",), ("--no-streamed_to_server", "--no-streamed_to_clients")])
def test_metrics_that_would_go_nowhere_are_refused_with_what_to_set(arguments: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match=r"nowhere.*--streamed_to_clients"):
        parse(*arguments)


@pytest.mark.parametrize(
    ("arguments", "server", "clients"),
    [
        ((), True, False),
        (("--streamed_to_clients", "--no-streamed_to_server"), False, True),
        (("--streamed_to_server", "--no-streamed_to_clients"), True, False),
    ],
)
def test_streaming_flags_say_where_metrics_go(arguments: tuple[str, ...], server: bool, clients: bool) -> None:
    options = parse(*arguments)
    assert (options.streamed_to_server, options.streamed_to_clients) == (server, clients)


def test_a_metric_that_would_go_both_ways_is_refused_for_it_would_arrive_twice() -> None:
    with pytest.raises(OptionError, match=r"twice.*--no-streamed_to_server"):
        parse("--streamed_to_clients")


def test_a_model_can_be_kept_at_w_and_b_only_from_the_server() -> None:
    with pytest.raises(OptionError, match="log_model"):
        parse("--streamed_to_clients", "--no-streamed_to_server", "--log_model")


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("no", False)])
def test_a_switch_is_yes_or_no(text: str, value: bool) -> None:
    assert job_options.from_variables({"LOG_MODEL": text}).log_model is value


def test_a_switch_that_is_neither_is_refused() -> None:
    with pytest.raises(OptionError, match="LOG_MODEL must be yes or no"):
        job_options.from_variables({"LOG_MODEL": "maybe"})


def test_the_upstream_examples_names_work_too() -> None:
    assert parse("--n_clients", "3", "--num_rounds", "5") == JobOptions(sites=3, rounds=5)


@settings(deadline=None, database=None)
@given(
    st.builds(
        JobOptions,
        rounds=st.integers(1, 10_000),
        local_epochs=st.integers(1, 1_000),
        batch_size=st.integers(1, 10_000),
        lr=st.floats(1e-6, 10),
        alpha=st.none() | st.floats(1e-3, 1e3),
        network=st.sampled_from(NETWORKS),
        sites=st.integers(1, MAX_SITES),
        seed=st.integers(0, 2**31 - 1),
        dataset=st.sampled_from(job_options.DATASETS),
        streamed_to_server=st.just(True),
        streamed_to_clients=st.just(False),
        receiver=st.sampled_from(job_options.RECEIVERS),
        wait_seconds=st.floats(0, 3600),
        log_model=st.booleans(),
    )
)
def test_the_command_line_of_options_gives_the_options_back(options: JobOptions) -> None:
    assert parse(*options.as_arguments()) == options


def test_streaming_from_clients_only_survives_the_command_line() -> None:
    options = JobOptions(streamed_to_server=False, streamed_to_clients=True)
    assert "--no-streamed_to_server" in options.as_arguments()
    assert parse(*options.as_arguments()) == options


def test_every_option_has_a_line_of_help() -> None:
    assert set(HELP) == {field.name for field in fields(JobOptions)}


def test_a_preset_gives_its_options_and_a_variable_of_its_own_goes_before() -> None:
    variables = job_options.with_preset({"PRESET": "published", "ROUNDS": "3", "LR": ""})
    options = job_options.from_variables(variables)
    assert options == JobOptions(rounds=3, local_epochs=4, batch_size=64, lr=0.05, alpha=1.0, network="moderate")


@pytest.mark.parametrize("name", job_options.PRESETS)
def test_every_preset_is_a_valid_job(name: str) -> None:
    assert job_options.from_variables(job_options.with_preset({"PRESET": name})).streamed_to_server


def test_no_preset_changes_nothing() -> None:
    assert job_options.with_preset({"SEED": "3", "PRESET": ""}) == {"SEED": "3"}


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match="PRESET must be one of default, accurate, published, not 'fast'"):
        job_options.with_preset({"PRESET": "fast"})
