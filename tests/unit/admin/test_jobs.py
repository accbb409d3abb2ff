"""A job from its submission to its results, as the admin does it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nvflare.fuel.flare_api.flare_api import Session

from multisite.admin import command_line, commands, results
from multisite.job import progress
from multisite.job.messages import ERRORS
from multisite.job.participants import draw
from tests.unit.admin.flare import Flare


@pytest.mark.parametrize(
    ("report", "meta", "named"),
    [
        ({"errors": {"site-2": "refused"}}, {ERRORS: {"site-1": "killed", "server": "status 101"}}, {"site-2": "refused"}),
        ({}, {ERRORS: {"site-1": "killed", "server": "status 101"}}, {"site-1": "killed"}),
        ({}, {ERRORS: {"server": "killed for memory"}}, {"server": "killed for memory"}),
        ({"errors": {}}, {}, {}),
    ],
)
def test_who_failed_first_is_named_and_not_who_was_ended_for_it(report: Any, meta: Any, named: Any) -> None:
    assert commands.what_failed(report, meta) == named


def finished(monkeypatch: pytest.MonkeyPatch, folder: Path, report: dict[str, Any] | None) -> dict[str, Any]:
    """What is said of a job that NVFlare calls completed, and that left this report and NVFlare's own summary."""

    def download(job_id: str, into: str) -> str:
        metrics = Path(into) / job_id / "workspace" / "metrics"
        metrics.mkdir(parents=True)
        if report is not None:
            (metrics / progress.RESULTS).write_text(json.dumps(report), encoding="utf-8")
        (metrics / results.SUMMARY).write_text("{}", encoding="utf-8")
        return str(metrics.parents[1])

    monkeypatch.setattr(commands, "RESULTS", folder)
    flare = Flare()
    monkeypatch.setattr(flare, "download_job_result", download, raising=False)
    monkeypatch.setattr(flare, "get_job_meta", lambda job_id: {}, raising=False)
    events: list[dict[str, Any]] = []
    commands._bring_results(cast(Session, flare), "7", "FINISHED:COMPLETED", 0, lambda event, **fields: events.append(fields))
    return events[-1]


REPORT: dict[str, Any] = {"rows": [], "errors": {}, "round": 28, "rounds": 200, "started": 0, "complete": True}


@pytest.mark.parametrize(("complete", "status"), [(True, "FINISHED:COMPLETED"), (False, "FINISHED:INCOMPLETE")])
def test_a_job_that_nvflare_calls_completed_is_completed_only_after_its_last_round(
    complete: bool, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = finished(monkeypatch, tmp_path, REPORT | {"complete": complete})
    assert event["status"] == status
    assert bool(event["errors"]) is not complete


def test_what_the_final_and_the_best_model_reached_is_said_as_the_job_reported_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = {"final": {"round": 200, "accuracy": 0.5}, "best": {"round": 150, "accuracy": 0.6}}
    event = finished(monkeypatch, tmp_path, REPORT | reached)
    assert {name: event[name] for name in reached} == reached


@pytest.mark.parametrize(("report", "kept"), [(REPORT, True), (REPORT | {"complete": False}, False), (None, True)])
def test_of_a_job_without_a_final_evaluation_nvflares_summary_with_the_accuracy_of_the_model_before_is_left_out(
    report: dict[str, Any] | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(monkeypatch, tmp_path, report)
    assert (tmp_path / "7" / results.SUMMARY).exists() is kept


class Submitting(Flare):
    """A server with three sites, to which a job is submitted."""

    def __init__(self) -> None:
        super().__init__()
        self.meta: dict[str, Any] = {}

    def get_system_info(self) -> object:
        return SimpleNamespace(client_info=[SimpleNamespace(name=f"site-{number}") for number in (3, 1, 2)])

    def submit_job(self, folder: str) -> str:
        self.meta = json.loads((Path(folder) / "meta.json").read_text(encoding="utf-8"))
        return "7"


def submitted(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, list[dict[str, Any]], list[str]]:
    """The exit status, the events, and the sites that the job is deployed to."""
    flare = Submitting()
    monkeypatch.setattr(commands, "_follow", lambda *_: 0)
    events: list[dict[str, Any]] = []
    parsed = command_line.parse(["submit", *arguments])
    code = commands.submit(cast(Session, flare), parsed, lambda event, **fields: events.append({"event": event, **fields}))
    deployed = {site for sites in flare.meta.get("deploy_map", {}).values() for site in sites}
    return code, events, sorted(deployed - {"server"})


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_the_sites_that_a_submit_names_are_those_that_the_job_is_for(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code, (event,), deployed = submitted(monkeypatch, "--sites", "2", "--seed", str(seed))
    assert (code, event["event"]) == (0, "submitted")
    assert event["sites"] == deployed == draw(["site-1", "site-2", "site-3"], 2, seed)


def test_whoever_submits_may_name_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (event,), deployed = submitted(monkeypatch, "--sites", "2", "--on", "site-3,site-2")
    assert sorted(event["sites"]) == deployed == ["site-2", "site-3"]


def test_a_site_that_has_gone_since_it_was_drawn_is_an_error_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    code, (event,), deployed = submitted(monkeypatch, "--sites", "2", "--on", "site-1,site-4")
    assert (code, event["event"], deployed) == (command_line.EXIT_FAILED, "error", [])
    assert event["message"] == "site-4: not registered any more"
    assert "docker compose logs site-4" in event["next"]


def test_more_sites_than_there_are_is_an_error_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    code, (event,), _ = submitted(monkeypatch, "--sites", "4", "--on", "site-1,site-2,site-3")
    assert (code, event["event"]) == (command_line.EXIT_FAILED, "error")
    assert "wants 4 sites and 3 are registered: site-1, site-2, site-3" in event["message"]
