"""What a deployment takes of the disk, by `docker system df`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multisite.console import disk
from multisite.console.docker import Docker, Result

LISTED = [
    {"Name": "mine_server", "Size": "1.5GB"},
    {"Name": "mine_site-1", "Size": "250.4MB"},
    {"Name": "mine_kit-site-1", "Size": "38.2kB"},
    {"Name": "mine_empty", "Size": "0B"},
    {"Name": "mine_unknown", "Size": "N/A"},
    {"Name": "other_server", "Size": "9GB"},
]


def docker(home: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> Docker:
    found = Docker(home, "mine")
    monkeypatch.setattr(found, "run", lambda *_, **__: Result(0, said, ""))
    return found


def test_the_deployments_own_volumes_and_results_are_in_one_line_the_largest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results" / "7").mkdir(parents=True)
    (tmp_path / "results" / "7" / "model").write_bytes(b"x" * 2_000_000)
    line = disk.line(docker(tmp_path, monkeypatch, json.dumps(LISTED)), tmp_path / "results")
    assert line == "disk: 1.8 GB: server 1.5 GB, site-1 250 MB, results/ on this host 2 MB"


@pytest.mark.parametrize("said", ["", "null", "{}", "no JSON", "[]"])
def test_an_engine_that_does_not_say_gives_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    assert disk.line(docker(tmp_path, monkeypatch, said), tmp_path / "results") == ""
