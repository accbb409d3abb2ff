"""`report.html`: what it says, and that nothing which comes from a site is more than text in it."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from multisite.job.report_page import NAME, page, write
from tests.unit.job.report_example import CONFIGURATION, JOB, SITES, TRACKING, report

HOSTILE = "<script>alert(1)</script>\"'&$x^2$\x1b[2J"
VOID = {"meta", "br", "link", "img", "input"}


class Elements(HTMLParser):
    """The elements of a page, each closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.loads += [
            str(value) for name, value in attrs if name in ("src", "href", "xlink:href") and not str(value).startswith("#")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def drawn(found: dict[str, Any] | None = None, **configuration: str) -> str:
    return page(JOB, report() if found is None else found, {**CONFIGURATION, **configuration}, TRACKING)


def test_the_page_has_every_section_and_the_numbers_that_count() -> None:
    text = drawn()
    for part in ("Global model on the test set", "Local training", "Participation and partition", "Configuration", "Metrics"):
        assert f"<h2>{part}" in text
    for part in (JOB, "0.7800", "0.7823", "16 of 16", "cifar10_fedavg", "iid-seed0", *SITES):
        assert part in text
    assert text.count("<svg") == 3


def test_the_page_is_whole_and_loads_nothing() -> None:
    elements = Elements(drawn())
    assert elements.open == []
    assert elements.loads == []
    assert not elements.names & {"script", "link", "img", "iframe", "object"}


def test_the_same_results_are_the_same_page() -> None:
    assert drawn() == drawn()


def test_text_of_a_site_or_of_a_job_is_text() -> None:
    found = report(sites=(HOSTILE, "site-2"), errors={HOSTILE: HOSTILE}, complete=False)
    text = drawn(found, network=HOSTILE)
    assert "<script" not in text.lower()
    assert "\x1b" not in text
    assert Elements(text).open == []
    assert "&lt;script&gt;" in text


def test_a_job_that_failed_says_so_with_the_sites_reason() -> None:
    text = drawn(report(complete=False, final=None, best=None, errors={"site-2": "ShardError: no shard"}))
    assert "The job did not come to its end." in text
    assert "site-2: ShardError: no shard" in text
    assert "final accuracy" not in text


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{}],
        [{"round": "x", "site": "a"}],
        [{"round": 0, "site": "a"}],
        [{"round": 0, "site": "a", "accuracy": float("nan"), "loss": float("inf"), "train_seconds": 1e300, "examples": 1e300}],
        [{"round": 0, "site": None, "accuracy": "high", "train_seconds": 1.0}],
        ["no row", 7, None],
    ],
    ids=range(7),
)
def test_rows_that_are_odd_break_no_page(rows: list[Any]) -> None:
    assert Elements(drawn({"rows": rows, "rounds": 3, "errors": [], "final": 7, "best": None})).open == []


def test_many_rounds_and_sites_make_a_page_of_bounded_size_in_bounded_time() -> None:
    began = time.monotonic()
    text = drawn(report(rounds=2_000, sites=tuple(f"site-{number}" for number in range(40))))
    assert len(text) < 12_000_000
    assert time.monotonic() - began < 60
    assert Elements(text).open == []


def test_the_page_of_a_folder_has_what_its_files_say(tmp_path: Path) -> None:
    executor = {"path": "x", "args": {"network": "compact", "lr": 0.05, "list": [1]}}
    (tmp_path / "job" / "app").mkdir(parents=True)
    (tmp_path / "job" / "meta.json").write_text(json.dumps({"name": "mine"}), encoding="utf-8")
    client = json.dumps({"executors": [{"tasks": ["*"], "executor": executor}]})
    (tmp_path / "job" / "app" / "config_fed_client.json").write_text(client, encoding="utf-8")
    (tmp_path / "rounds.json").write_text(json.dumps(report()), encoding="utf-8")
    write(tmp_path, JOB)
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    for part in ("<td>compact</td>", "<td>0.05</td>", "<td>mine</td>", "0.7800"):
        assert part in text


def test_a_folder_without_any_file_gives_a_page_that_says_so(tmp_path: Path) -> None:
    write(tmp_path, JOB)
    assert "No site has reported a round." in (tmp_path / NAME).read_text(encoding="utf-8")
