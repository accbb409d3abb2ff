"""What a site says of itself, and what the admin reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nvflare.apis.fl_context import FLContext

from multisite.admin.site_report import read_report
from multisite.node import resources


def test_a_site_says_its_device_and_the_examples_of_every_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, examples in (("iid-seed0", 25_000), ("alpha0.5-seed1", 9)):
        manifest = {"partition": name, "examples": examples, "dataset": "cifar10", "alpha": None, "seed": 0, "sha256": {}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr(resources.shards, "__defaults__", (tmp_path,))
    report = resources.SiteResources(num_of_gpus=0, mem_per_gpu_in_GiB=0).report_resources(FLContext())
    assert report["shards"]["iid-seed0"] == {"examples": 25_000, "dataset": "cifar10", "alpha": None, "seed": 0}
    assert report["shards"]["alpha0.5-seed1"]["examples"] == 9
    assert report["device"].startswith(("cpu (", "cuda: "))
    json.dumps(report)  # as it is sent


def test_a_site_without_shards_says_so(tmp_path: Path) -> None:
    assert resources.shards(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("No replies", {}),
        ("{" * 100_000, {}),
        ("[1, 2]", {}),
        ("{'device': 'cpu', 'shards': 'x'}", {"device": "cpu", "shards": {}}),
        ("{'shards': {'a': {'examples': 'x'}, 'b': 7}}", {"device": "-", "shards": {}}),
        (
            repr(
                {
                    "device": "\x1b[2Jcpu\njob 1 completed",
                    "shards": {"iid\x07": {"examples": 3, "dataset": "c\x1b]0;x\x07", "seed": 0}},
                }
            ),
            {"device": "cpu job 1 completed", "shards": {"iid": {"examples": 3, "dataset": "c", "alpha": None, "seed": 0}}},
        ),
    ],
)
def test_what_a_site_reports_is_read_as_far_as_it_is_a_report(text: str, read: dict[str, object]) -> None:
    assert read_report(text) == read
