"""Whoever holds one site's kit can end a job, under that site's own name. They can't spoil the model, hang the job or forge a line."""

from __future__ import annotations

import array
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from multisite.cifar10.manifest import SHAPES
from tests.e2e.hostile.client import FORMULA
from tests.e2e.stack import PROJECT, Done, Stack, job_id_in

OVERLAY = """
services:
  site-2:
    mem_limit: 1g
    volumes: ["{home}/hostile:/hostile:ro", "{script}:/opt/multisite/multisite/job/client.py:ro"]
"""
ENDED_SECONDS = 120  # within which a job that can't go on has ended


@pytest.fixture(scope="module")
def hostile(stack: Stack) -> Iterator[Stack]:
    """The deployment, whose site-2 runs a script of its operator's."""
    folder = stack.home / "hostile"
    folder.mkdir()
    folder.chmod(0o755)
    script = PROJECT / "tests" / "e2e" / "hostile" / "client.py"
    (stack.home / "hostile.yaml").write_text(OVERLAY.format(home=stack.home, script=script), encoding="utf-8")
    env = stack.home / ".env"
    original = env.read_text(encoding="utf-8")
    env.write_text(original.replace("COMPOSE_EXTRA=", f"COMPOSE_EXTRA={stack.home}/hostile.yaml:"), encoding="utf-8")
    assert stack.make("up").code == 0
    yield stack
    env.write_text(original, encoding="utf-8")
    assert stack.make("up").code == 0


@dataclass(frozen=True)
class Outcome:
    """A job with the hostile site in it."""

    done: Done
    folder: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "rounds.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def run(stack: Stack, mode: str) -> Outcome:
    (stack.home / "hostile" / "mode").write_text(mode, encoding="utf-8")
    done = stack.submit(ROUNDS="3")
    return Outcome(done, stack.home / "results" / job_id_in(done.text))


def read_model(path: Path) -> tuple[dict[str, tuple[int, ...]], array.array[float]]:
    """Shapes and all values of a safetensors file of float32 (https://github.com/huggingface/safetensors, "Format")."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}, array.array("f", data[end:])


def check_ended_by_name(outcome: Outcome, reason: str) -> None:
    """Ended soon and with an error, under site-2's name and nobody else's, with what the last good round gave."""
    text = outcome.done.text
    assert outcome.done.code != 0, text
    assert outcome.done.seconds < ENDED_SECONDS
    last = text[text.index("did not complete") :]
    (named,) = [line for line in last.splitlines() if line.startswith("  site-")]
    assert named.startswith("  site-2: "), last
    assert reason in named, last
    shapes, values = read_model(outcome.folder / "models" / "global_model.safetensors")
    assert shapes == SHAPES["light"]
    assert all(map(math.isfinite, values))


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("nan", "values that are not finite"),
        ("broadcast", "has the shape [1, 1, 1, 1]"),
        ("integers", "is of type int8, not float32"),
        ("missing", "1 missing (layers.1.weight)"),
        ("empty", "it has no arrays"),
        ("weight", "its weight is 1e+12 steps"),
        ("accuracy", "not between 0 and 1"),
        ("large", "MAX_RESULT_MB"),
    ],
)
def test_a_result_that_does_not_fit_must_end_the_job_and_count_nowhere(hostile: Stack, mode: str, reason: str) -> None:
    outcome = run(hostile, mode)
    check_ended_by_name(outcome, reason)
    counted = {(row["round"], row["site"]) for row in outcome.rows}
    assert counted - {("1", "site-1")} == {("0", "site-1"), ("0", "site-2")}
    json.loads((outcome.folder / "rounds.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("objects", "ended without a result"),
        ("exit", "ended without a result"),
        ("killed", "was killed (SIGKILL)"),
        ("memory", "killed for memory: the container may have 1.0 GiB; next: SITE_MEMORY"),
    ],
)
def test_a_site_whose_process_gives_no_result_must_end_the_job_by_name(hostile: Stack, mode: str, reason: str) -> None:
    check_ended_by_name(run(hostile, mode), reason)


def test_text_from_a_site_must_not_reach_a_terminal_a_log_or_a_table_as_more_than_text(hostile: Stack) -> None:
    outcome = run(hostile, "text")
    assert outcome.done.code == 0, outcome.done.text
    cells = {row["dataset"] for row in outcome.rows if row["site"] == "site-2"}
    assert any(FORMULA in cell for cell in cells)
    assert not any(cell.startswith("=") or "\x1b" in cell for cell in cells)
    failed = run(hostile, "error")
    check_ended_by_name(failed, "job 1234 completed")
    for text in (outcome.done.text, failed.done.text, hostile.compose("logs", "--no-log-prefix", "server").text):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert not [line for line in text.splitlines() if line.startswith("job 1234 completed")]
