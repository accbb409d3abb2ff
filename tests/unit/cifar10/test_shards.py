"""A site's shard on disk: written whole, read back, or an error that names the file."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multisite.cifar10.shards import Arrays, ShardError, load_shard, read_manifest, write_shard

PARTITION = "iid-seed0"


def arrays(train: int = 30, test: int = 10) -> Arrays:
    random = np.random.default_rng(1)

    def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
        return random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, count, dtype=np.uint8)

    return Arrays(*pair(train), *pair(test))


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = arrays()
    write_shard(tmp_path / PARTITION, written, {"dataset": "cifar10", "partition": PARTITION})
    shard = load_shard(tmp_path, PARTITION)
    for name in vars(written):
        assert np.array_equal(getattr(shard, name), getattr(written, name))
    assert (shard.manifest["examples"], shard.manifest["test_examples"]) == (30, 10)
    assert shard.manifest["classes"] == np.bincount(written.train_labels, minlength=10).tolist()
    assert shard.manifest["dataset"] == "cifar10"


def test_a_shards_manifest_holds_the_digest_of_every_array(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", arrays(), {})
    manifest = read_manifest(tmp_path / "shard")
    assert manifest is not None
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "shard").glob("*.npy")}
    assert manifest["sha256"] == files
    assert len(files) == 4


def test_a_shard_replaces_the_one_before_it_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for count in (30, 20):
        write_shard(tmp_path / "shard", arrays(count), {})
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    assert len(load_shard(tmp_path, "shard").train_labels) == 20


def test_a_write_that_fails_keeps_the_old_shard_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "shard", arrays(), {})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "shard", arrays(20), {})
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    assert len(load_shard(tmp_path, "shard").train_labels) == 30


def test_a_shard_without_one_of_its_arrays_has_no_manifest(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", arrays(), {"dataset": "cifar10"})
    (tmp_path / "shard" / "test_labels.npy").unlink()
    assert read_manifest(tmp_path / "shard") is None


def test_a_missing_shard_is_an_error_with_folder_partition_and_next_step(tmp_path: Path) -> None:
    (tmp_path / "dirichlet0.5-seed0").mkdir()
    with pytest.raises(ShardError) as missing:
        load_shard(tmp_path, PARTITION)
    for part in (str(tmp_path), f"partition {PARTITION}", "there: dirichlet0.5-seed0", "next: `make up`", "ALPHA, SEED"):
        assert part in str(missing.value)


def test_a_missing_data_folder_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there: nothing"):
        load_shard(tmp_path / "absent", PARTITION)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("train_images", np.zeros((30, 32, 32, 3), np.uint8)),
        ("train_images", np.zeros((30, 3, 32, 32), np.float32)),
        ("test_images", np.zeros((10, 3072), np.uint8)),
        ("train_labels", np.zeros(30, np.int64)),
        ("test_labels", np.zeros((10, 10), np.uint8)),
    ],
)
def test_a_malformed_array_is_an_error_that_names_the_file(tmp_path: Path, name: str, array: np.ndarray) -> None:
    write_shard(tmp_path / PARTITION, arrays(), {})
    np.save(tmp_path / PARTITION / f"{name}.npy", array)
    with pytest.raises(ShardError) as malformed:
        load_shard(tmp_path, PARTITION)
    message = str(malformed.value)
    assert f"{PARTITION}/{name}.npy holds {array.dtype}" in message
    assert "next:" in message


@pytest.mark.parametrize("content", [b"", b"no array", pickle.dumps([1, 2])])
def test_an_unreadable_array_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    write_shard(tmp_path / PARTITION, arrays(), {})
    (tmp_path / PARTITION / "test_images.npy").write_bytes(content)
    with pytest.raises(ShardError, match=r"test_images\.npy can't be read.*\n  next:"):
        load_shard(tmp_path, PARTITION)


def test_an_array_of_pickled_objects_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / PARTITION, arrays(), {})
    np.save(tmp_path / PARTITION / "train_labels.npy", np.array([{}] * 30, dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match=r"train_labels\.npy can't be read"):
        load_shard(tmp_path, PARTITION)


def test_images_and_labels_of_different_number_are_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / PARTITION, arrays(), {})
    np.save(tmp_path / PARTITION / "train_labels.npy", np.zeros(29, np.uint8))
    with pytest.raises(ShardError, match="30 images but 29 labels"):
        load_shard(tmp_path, PARTITION)


def test_a_sites_own_arrays_are_used_whatever_the_partition(tmp_path: Path) -> None:
    own = arrays()
    for name, array in vars(own).items():
        np.save(tmp_path / f"{name}.npy", array)
    shard = load_shard(tmp_path, PARTITION)
    assert np.array_equal(shard.train_images, own.train_images)
    assert shard.manifest == {"dataset": "own", "partition": "own", "examples": 30}


def test_a_shard_of_the_partition_comes_before_a_sites_own_arrays(tmp_path: Path) -> None:
    for name, array in vars(arrays(12)).items():
        np.save(tmp_path / f"{name}.npy", array)
    write_shard(tmp_path / PARTITION, arrays(30), {"dataset": "cifar10"})
    assert len(load_shard(tmp_path, PARTITION).train_labels) == 30
