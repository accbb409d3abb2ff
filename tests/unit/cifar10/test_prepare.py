"""The data one-shot: shards on disk, where the examples come from, and what happens when they can't be had."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multisite.cifar10 import prepare, source
from multisite.cifar10.partition import Partition
from multisite.cifar10.shards import load_shard, read_manifest

SIZES = (600, 120)
PARTITION = "iid-seed0"


@pytest.fixture(autouse=True)
def _small_synthetic_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "synthetic", functools.partial(source.synthetic, sizes=SIZES))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in CIFAR-10's format, 20 examples a batch, that counts as the published one."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "copy" / source.FOLDER
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    digests = {}
    for number, name in enumerate(source.MD5):
        content: dict[str, Any] = {"label_names": [f"class {label}" for label in range(10)]}
        if name != "batches.meta":
            labels = [(number + n) % 10 for n in range(20)]
            content = {"data": random.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
        digests[name] = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(source, "MD5", digests)
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, attribute, [[name, digests[name]] for name, _ in getattr(CIFAR10, attribute)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests["batches.meta"]})
    return folder


def run(out: Path, *more: str, data_source: str = "synthetic", sites: str = "site-1,site-2") -> int:
    """The one-shot's exit status."""
    cache = out.parent / "cache"
    return prepare.main(["--out", str(out), "--sites", sites, "--source", data_source, "--cache", str(cache), *more])


def held(out: Path, site: str = "site-1", partition: str = PARTITION) -> str:
    """The dataset in a site's shard."""
    manifest = read_manifest(out / site / partition)
    assert manifest is not None
    return str(manifest["dataset"])


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_the_synthetic_set_has_cifar10s_format_and_every_class() -> None:
    made = source.synthetic(seed=0)
    for images, labels, count in ((made.train_images, made.train_labels, 600), (made.test_images, made.test_labels, 120)):
        assert (images.shape, images.dtype) == ((count, 3, 32, 32), np.uint8)
        assert (labels.shape, labels.dtype) == ((count,), np.uint8)
        assert set(labels.tolist()) == set(range(10))


def test_the_synthetic_set_is_the_same_for_the_same_seed() -> None:
    first, second, other = source.synthetic(seed=0), source.synthetic(seed=0), source.synthetic(seed=1)
    assert np.array_equal(first.train_images, second.train_images)
    assert not np.array_equal(first.train_images, other.train_images)


# prepare


def test_prepare_divides_the_training_set_and_gives_every_site_the_whole_test_set(tmp_path: Path) -> None:
    assert run(tmp_path / "out") == 0
    shards = [load_shard(tmp_path / "out" / site, PARTITION) for site in ("site-1", "site-2")]
    everything = source.synthetic()
    for shard, indices in zip(shards, Partition(2, None, 0).split(everything.train_labels), strict=True):
        assert np.array_equal(shard.train_images, everything.train_images[indices])
        assert np.array_equal(shard.train_labels, everything.train_labels[indices])
        assert np.array_equal(shard.test_images, everything.test_images)
    assert [shard.manifest["site"] for shard in shards] == ["site-1", "site-2"]


def test_prepare_says_what_each_site_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "out")
    assert capsys.readouterr().out.splitlines() == [
        f"site-1: 300 examples of SYNTHETIC DATA ({PARTITION}), ready",
        f"site-2: 300 examples of SYNTHETIC DATA ({PARTITION}), ready",
    ]


def test_a_second_prepare_rewrites_nothing(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = stamps(tmp_path)
    assert run(tmp_path / "out") == 0
    assert stamps(tmp_path) == before


def test_a_second_prepare_needs_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "out")

    def asked(*_: Any) -> None:
        raise AssertionError("the source was asked again")

    monkeypatch.setattr(prepare, "resolve", asked)
    assert run(tmp_path / "out") == 0
    assert run(tmp_path / "out", data_source="auto") == 0


def test_a_missing_shard_is_prepared_again(tmp_path: Path) -> None:
    run(tmp_path / "out")
    (tmp_path / "out" / "site-2" / PARTITION / "train_images.npy").unlink()
    assert run(tmp_path / "out") == 0
    assert len(load_shard(tmp_path / "out" / "site-2", PARTITION).train_images) == 300


def test_another_partition_comes_beside_the_first(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = stamps(tmp_path / "out" / "site-1" / PARTITION)
    assert run(tmp_path / "out", "--alpha", "1", "--seed", "4") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "site-1").iterdir()) == ["dirichlet1-seed4", PARTITION]
    assert stamps(tmp_path / "out" / "site-1" / PARTITION) == before


def test_a_limit_keeps_so_many_training_examples_and_a_fifth_for_testing(tmp_path: Path) -> None:
    assert run(tmp_path / "out", "--limit", "100") == 0
    shards = [load_shard(tmp_path / "out" / site, PARTITION) for site in ("site-1", "site-2")]
    assert [(len(shard.train_labels), len(shard.test_labels)) for shard in shards] == [(50, 20), (50, 20)]


def test_another_limit_prepares_again(tmp_path: Path) -> None:
    for more in (("--limit", "100"), ("--limit", "200"), ()):
        run(tmp_path / "out", *more)
    assert len(load_shard(tmp_path / "out" / "site-1", PARTITION).train_labels) == 300


def test_empty_values_mean_not_given_as_compose_passes_them(tmp_path: Path) -> None:
    assert run(tmp_path / "out", "--alpha", "", "--limit", "", "--local", "") == 0
    assert len(load_shard(tmp_path / "out" / "site-1", PARTITION).train_labels) == 300


def test_an_impossible_partition_is_exit_status_2_with_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", "--limit", "12", "--alpha", "0.5") == 2
    message = capsys.readouterr().err
    assert message.startswith("data: with alpha=0.5, sites=2, seed=0 a site gets ")
    assert "next:" in message
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_a_full_disk_is_exit_status_2_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/shards/site-1")

    monkeypatch.setattr(np, "save", full)
    assert run(tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "data: /shards/site-1: No space left on device" in message
    assert "next: free disk space" in message


# CIFAR-10


def test_a_local_copy_becomes_the_shards(tmp_path: Path, cifar10: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", "--local", str(cifar10.parent), data_source="auto") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"site-1: 50 examples of cifar10 ({PARTITION}), ready"
    shard = load_shard(tmp_path / "out" / "site-1", PARTITION)
    batches = [pickle.loads((cifar10 / f"data_batch_{number}").read_bytes()) for number in range(1, 6)]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)  # the format's own order
    indices = Partition(2, None, 0).split(np.concatenate([batch["labels"] for batch in batches]))[0]
    assert np.array_equal(shard.train_images, images[indices])


@pytest.mark.parametrize("deeper", [True, False])
def test_a_copy_is_found_in_a_folder_and_under_it(tmp_path: Path, cifar10: Path, deeper: bool) -> None:
    assert source.find_copy(cifar10 if deeper else cifar10.parent) == cifar10
    assert source.find_copy(tmp_path / "absent") is None


@pytest.mark.parametrize("data_source", ["auto", "cifar10"])
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_an_incomplete_local_copy_is_an_error_that_names_the_file_and_never_synthetic(
    tmp_path: Path, cifar10: Path, capsys: pytest.CaptureFixture[str], name: str, data_source: str
) -> None:
    (cifar10 / name).unlink()
    assert run(tmp_path / "out", "--local", str(cifar10.parent), data_source=data_source) == 2
    message = capsys.readouterr().err
    assert f"{source.FOLDER}/{name} is missing" in message
    assert "next:" in message
    assert "SYNTHETIC" not in message
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_a_corrupt_local_copy_is_an_error_that_names_the_file_and_never_synthetic(
    tmp_path: Path, cifar10: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((cifar10 / "data_batch_2").read_bytes())
    content[-100] ^= 1
    (cifar10 / "data_batch_2").write_bytes(content)
    assert run(tmp_path / "out", "--local", str(cifar10.parent), data_source="auto") == 2
    message = capsys.readouterr().err
    assert f"{source.FOLDER}/data_batch_2 is not the published file" in message
    assert "SYNTHETIC" not in message
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_cifar10_without_a_copy_and_without_network_is_an_error_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = socket.getdefaulttimeout()
    assert run(tmp_path / "out", data_source="cifar10") == 2
    message = capsys.readouterr().err
    assert "data: CIFAR-10 could not be downloaded" in message
    assert "next: set CIFAR10_DIR to a local copy" in message
    assert not list((tmp_path / "out").rglob("manifest.json"))
    assert socket.getdefaulttimeout() == before


def test_auto_without_a_copy_and_without_network_stands_in_synthetic_data_in_capitals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", data_source="auto") == 0
    printed = capsys.readouterr()
    assert "SYNTHETIC DATA STANDS IN FOR CIFAR-10: CIFAR-10 could not be downloaded" in printed.err
    assert "SYNTHETIC DATA" in printed.out
    assert held(tmp_path / "out") == "synthetic"


def test_a_synthetic_shard_gives_way_when_a_copy_is_at_hand(tmp_path: Path, cifar10: Path) -> None:
    run(tmp_path / "out", data_source="auto")
    assert held(tmp_path / "out") == "synthetic"
    assert run(tmp_path / "out", "--local", str(cifar10.parent), data_source="auto") == 0
    assert held(tmp_path / "out") == held(tmp_path / "out", "site-2") == "cifar10"


def test_a_synthetic_shard_stays_when_synthetic_data_is_asked_for(tmp_path: Path, cifar10: Path) -> None:
    run(tmp_path / "out")
    before = stamps(tmp_path / "out")
    assert run(tmp_path / "out", "--local", str(cifar10.parent)) == 0
    assert stamps(tmp_path / "out") == before


def test_cifar10_shards_stay_when_the_copy_is_gone(tmp_path: Path, cifar10: Path) -> None:
    run(tmp_path / "out", "--local", str(cifar10.parent), data_source="auto")
    before = stamps(tmp_path / "out")
    for data_source in ("auto", "cifar10"):
        assert run(tmp_path / "out", data_source=data_source) == 0
    assert stamps(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("dataset", "asked", "at_hand", "current"),
    [
        ("synthetic", "auto", False, True),
        ("synthetic", "auto", True, False),
        ("synthetic", "synthetic", True, True),
        ("synthetic", "cifar10", False, False),
        ("cifar10", "auto", False, True),
        ("cifar10", "cifar10", False, True),
        ("cifar10", "synthetic", False, False),
    ],
)
def test_a_shard_is_current_when_it_holds_what_is_asked_for(dataset: str, asked: str, at_hand: bool, current: bool) -> None:
    assert prepare.is_current({"dataset": dataset, "limit": None}, asked, at_hand, None) is current
    assert prepare.is_current({"dataset": dataset, "limit": 100}, asked, at_hand, None) is False
    assert prepare.is_current(None, asked, at_hand, None) is False


def test_the_manifest_is_json_that_others_can_read(tmp_path: Path) -> None:
    run(tmp_path / "out", "--alpha", "2", "--seed", "5")
    content = json.loads((tmp_path / "out" / "site-2" / "dirichlet2-seed5" / "manifest.json").read_text(encoding="utf-8"))
    wanted = {"dataset": "synthetic", "partition": "dirichlet2-seed5", "site": "site-2", "alpha": 2.0, "seed": 5, "sites": 2}
    assert {name: content[name] for name in wanted} == wanted
