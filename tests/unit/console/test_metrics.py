"""`make status` and `make sync`: what they say of metrics that are not as they must be."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from multisite.console import metrics

ACCOUNT = {
    "logged": 5,
    "received": 5,
    "delivered": 5,
    "refused": 0,
    "closed": True,
    "set_aside": 0,
    "unconfirmed": 0,
    "problem": "",
    "pending": 0,
}


def deployment(*jobs: dict[str, Any], **refusals: Any) -> Any:
    """One whose server's spool holds these jobs."""
    answer = json.dumps({"jobs": jobs, "refusals": {site.replace("_", "-"): kinds for site, kinds in refusals.items()}})
    docker = SimpleNamespace(
        running=lambda service: service == "server",
        local_sites=lambda: ["site-1"],
        exec=lambda service, *command, seconds: SimpleNamespace(out=answer + "\n", err="", code=0),
    )
    return SimpleNamespace(docker=docker)


def job(**changes: Any) -> dict[str, Any]:
    whole = {"job_id": "job-1", "delivers": True, "state": "done", "reason": "", "sites": {"site-1": ACCOUNT}, "pending": 0}
    return {**whole, "problems": [], **changes}


def test_what_is_as_it_must_be_is_one_line_a_site() -> None:
    (empty, table) = metrics.status(deployment(job()))
    assert empty == ""
    assert table.splitlines()[1].split() == ["job-1", "site-1", "5", "5", "5", "0", "done"]


def test_a_damaged_file_a_record_set_aside_and_a_refusal_have_a_line_each_that_names_who_and_why() -> None:
    aside = job(sites={"site-2": {**ACCOUNT, "set_aside": 3}}, reason="site-2: 3 records set aside, first number 7: no JSON")
    damaged = job(job_id="job-2", sites={}, problems=["site.json: logged must be a whole number"])
    lines = metrics.status(
        deployment(aside, damaged, site_2={"unknown job": {"count": 20_000, "time": 1.0, "reason": "no job evil"}})
    )
    assert lines[2:] == [
        "job job-1, site-2: 3 records are no metrics and set aside",
        "job job-1: site-2: 3 records set aside, first number 7: no JSON",
        "job job-2: site.json: logged must be a whole number",
        "refused of site-2, at least 20000 times: no job evil",
    ]


def test_a_refusal_is_said_where_there_are_no_metrics_at_all() -> None:
    assert metrics.status(deployment()) == []
    lines = metrics.status(deployment(site_2={"message": {"count": 1, "time": 1.0, "reason": "a malformed message"}}))
    assert lines == ["", "refused of site-2, at least 1 times: a malformed message"]


def test_sync_says_which_job_has_settings_that_no_job_may_give(capsys: pytest.CaptureFixture[str]) -> None:
    pending = {"site-1": {**ACCOUNT, "delivered": 0, "pending": 5}}
    misconfigured = job(
        sites=pending, pending=5, state="misconfigured", reason="job.json: wandb_args: 'dir' is not allowed in a job"
    )
    assert metrics.sync(deployment(misconfigured)) == 1
    assert "5 pending (misconfigured: job.json: wandb_args: 'dir' is not allowed in a job)" in capsys.readouterr().out
