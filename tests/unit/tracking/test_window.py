"""The writer sends what is on the disk, and holds back what W&B has not confirmed: rows are in the client's memory until then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from multisite.tracking import site_runs
from multisite.tracking import writer as writer_module
from multisite.tracking.run import Run
from multisite.tracking.site_run import SiteRun
from multisite.tracking.spool import Spool
from multisite.tracking.writer import JobWriter
from tests.unit.spools import log


class Rows:
    """A run that takes every row."""

    def __init__(self, calls: list[str] | None = None) -> None:
        self.calls = [] if calls is None else calls

    def log(self, record: Any, number: int) -> None:
        self.calls.append("row")


def test_a_row_is_on_the_disk_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not free the number of a row that W&B has."""
    calls: list[str] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: calls.append("disk") or real(descriptor))
    spool = Spool(tmp_path)
    log(spool, "site-1", 2).close()
    site_run = SiteRun(spool.job("job-1").origin("site-1"))
    site_run.run = cast(Run, Rows(calls))
    assert site_run.send_batch(1000) == 2
    assert site_run.send_batch(1000) == 0
    assert calls == ["disk", "row", "row"]


@pytest.mark.parametrize(("setting", "value"), [("WINDOW_BYTES", 5000), ("WINDOW_ROWS", 100)])
def test_no_more_rows_and_bytes_are_under_way_than_fit_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: int
) -> None:
    monkeypatch.setattr(site_runs, setting, value)
    monkeypatch.setattr(writer_module, "BATCH_BYTES", 500)
    spool = Spool(tmp_path)
    log(spool, "site-1", 300).close()
    writer, site_run = JobWriter(spool.job("job-1").folder), SiteRun(spool.job("job-1").origin("site-1"))
    writer.runs.by_site["site-1"], site_run.run = site_run, cast(Run, Rows())

    def under_way() -> int:
        return site_run.outstanding_bytes if setting == "WINDOW_BYTES" else site_run.outstanding

    batch = 500 if setting == "WINDOW_BYTES" else 15
    sent = writer._send(site_run)
    assert value <= under_way() <= value + batch
    assert writer._send(site_run) == 0
    site_run.confirmed = sent - 50
    assert writer._send(site_run) > 0
    assert value <= under_way() <= value + 2 * batch  # what is confirmed of a batch is not known
