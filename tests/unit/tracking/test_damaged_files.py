"""A file of the spool that is not what it must be, or can't be read: its job is reported with the reason, and every other goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from multisite.tracking import sync
from multisite.tracking.delivery import Delivery, sweep
from multisite.tracking.files import load_json, save_json
from multisite.tracking.spool import Spool
from tests.unit.spools import age, delivered, log, reported, settings


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


DAMAGED = {
    "site-1/site.json": "site.json",
    "site-1/refused.json": "refused.json",
    "writer.json": "writer.json",
    "job.json": "job.json",
}
CONTENTS = ["", "{", "[1]", "null", "\x00" * 64, "[" * 100_000, '{"logged": "x", "state": 5}', '{"count": -1, "runs": [], "wandb": 5, "logged": []}', '{"count": true, "runs": {"site-1": {"delivered": -5}}, "wandb": {"dir": "/"}, "logged": 1e400}']  # fmt: skip


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut leaves an empty one."""
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments, name=name, real=real: (calls.append(name), real(*arguments)))
    save_json(tmp_path / "a.json", {"a": 1}, durable=True)
    save_json(tmp_path / "b.json", {"b": 1})
    assert calls == ["fsync", "replace", "replace"]
    assert load_json(tmp_path / "a.json") == {"a": 1}


def beside(spool: Spool) -> None:
    """A second job, to which nothing happens."""
    settings(spool, "job-2")
    log(spool, "site-1", 3, "job-2").close()
    delivered(spool, "job-2", site_1=2)


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize(("file", "name"), DAMAGED.items())
def test_a_file_that_is_not_what_it_must_be_is_reported_with_its_job_and_every_other_job_is_as_it_was(
    spool: Spool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    name: str,
    content: str,
) -> None:
    settings(spool)
    log(spool, "site-1", 5).close()
    log(spool, "site-2", 4).close()
    delivered(spool, site_1=1, site_2=4)
    beside(spool)
    (spool.root / "job-1" / file).write_text(content, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["sync", "--status", "--spool", str(spool.root)])
    assert sync.main() == 0
    damaged, other = sorted(json.loads(capsys.readouterr().out)["jobs"], key=lambda report: report["job_id"])
    assert any(name in problem for problem in damaged["problems"])
    assert all(problem.isprintable() and len(problem) < 500 for problem in damaged["problems"])
    assert damaged["sites"]["site-1"]["logged"] == 5
    assert damaged["sites"]["site-2"]["logged"] == 4
    assert other["problems"] == []
    assert (other["sites"]["site-1"]["delivered"], other["pending"]) == (2, 1)


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize("file", DAMAGED)
def test_delivery_goes_on_beside_a_damaged_file_and_nothing_of_its_job_is_deleted(
    spool: Spool, tmp_path: Path, file: str, content: str
) -> None:
    settings(spool)
    log(spool, "site-1", 5).close()
    reported(spool, "site-1", logged=9)
    beside(spool)
    (spool.root / "job-1" / file).write_text(content, encoding="utf-8")
    agent = Delivery(spool, tmp_path / "no-key")
    agent.tick()
    agent.stop()
    assert spool.job("job-2").report()["state"] == "offline"
    age(spool, 30)
    assert sweep(spool) == []


@pytest.mark.parametrize("content", ["{", None])
def test_a_delivered_job_of_a_site_whose_status_is_damaged_is_not_deleted(spool: Spool, content: str | None) -> None:
    settings(spool)
    log(spool, "site-1", 3).close()
    reported(spool, "site-1", logged=3, closed=True)
    delivered(spool, site_1=3)
    if content:
        spool.job("job-1").origin("site-1").site_json.write_text(content, encoding="utf-8")
    age(spool, 30)
    assert sweep(spool) == ([] if content else ["job-1"])


def test_a_folder_that_can_not_be_read_is_reported_and_every_other_job_is_as_it_was(spool: Spool, tmp_path: Path) -> None:
    settings(spool)
    log(spool, "site-1", 5).close()
    beside(spool)
    folder = spool.job("job-1").origin("site-1").folder
    folder.chmod(0)
    try:
        agent = Delivery(spool, tmp_path / "no-key")
        agent.tick()
        agent.stop()
        reports = {report["job_id"]: report for report in sync.reports(Spool(spool.root))}
    finally:
        folder.chmod(0o755)
    assert "Permission denied" in reports["job-1"]["problems"][0]
    assert (reports["job-2"]["state"], reports["job-2"]["pending"]) == ("offline", 1)
