"""A site's data on disk: `<data folder>/<partition>/` with four arrays and a manifest. NumPy only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
TEMPORARY = ".new-"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
CLASSES = 10
AGAIN = "remove the shard's folder, and `make up` writes it again; in a site's own folder, remove manifest.json"
IMAGE = (3, 32, 32)


class ShardError(Exception):
    """A site's data is missing or malformed. The message names the place and the next step."""


@dataclass(frozen=True)
class Arrays:
    """CIFAR-10's format: images uint8 [N, 3, 32, 32], labels uint8 [N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Shard(Arrays):
    """One site's examples and the common test set, with their manifest."""

    manifest: dict[str, Any]


def write_shard(folder: Path, arrays: Arrays, description: dict[str, Any]) -> None:
    """Writes a shard as `folder`, whole or not at all.

    Args:
        folder: the shard's folder; an existing one is replaced once the new one is complete.
        arrays: the shard's training examples and the test set.
        description: dataset, partition, site, ... for the manifest.

    Raises:
        OSError: the disk is full, or the folder can't be written. An existing shard is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_over in folder.parent.glob(f"{TEMPORARY}*"):  # by a one-shot that was killed; only one writes at a time
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        digests = {}
        for name in ARRAYS:
            path = temporary / f"{name}.npy"
            np.save(path, getattr(arrays, name))
            digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest = {
            **description,
            "examples": len(arrays.train_labels),
            "test_examples": len(arrays.test_labels),
            "classes": np.bincount(arrays.train_labels, minlength=CLASSES).tolist(),
            "sha256": digests,
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        temporary.chmod(0o755)
        if folder.exists():
            os.rename(folder, temporary / "before")  # kept until the new one is in its place
        os.rename(temporary, folder)
        shutil.rmtree(folder / "before", ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the shard in `folder`; None if there is no complete one."""
    if not all((folder / f"{name}.npy").exists() for name in ARRAYS):
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def load_shard(data: Path, partition: str) -> Shard:
    """Loads a site's examples into memory.

    Args:
        data: the site's data folder.
        partition: the job's partition. A site that brings its own data has the arrays in `data` itself, and trains on those.

    Raises:
        ShardError: there are none, an array is malformed, or it is not the one that the manifest describes.
    """
    try:
        return _load_shard(data, partition)
    except PermissionError as error:
        next_step = "let the container's user read the folder and its files"
        raise ShardError(f"{error.filename or data} can't be read: {error.strerror}\n  next: {next_step}") from None


def _load_shard(data: Path, partition: str) -> Shard:
    folder = data / partition if (data / partition).is_dir() else data
    if not (folder / "train_images.npy").exists():
        present = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
        raise ShardError(
            f"no shard of partition {partition} in {data} (there: {', '.join(present) or 'nothing'})\n"
            "  next: `make up` with the same ALPHA, SEED and SITES prepares it; "
            "a site's own data goes into that folder as four .npy files"
        )
    arrays = Arrays(*(_load(folder / f"{name}.npy") for name in ARRAYS))
    for images, labels in ((arrays.train_images, arrays.train_labels), (arrays.test_images, arrays.test_labels)):
        if len(images) != len(labels):
            raise ShardError(f"{folder}: {len(images)} images but {len(labels)} labels\n  next: write the pair again")
    manifest = read_manifest(folder)
    if manifest is None and (folder / MANIFEST).exists():
        raise ShardError(f"{folder / MANIFEST} is no manifest in JSON\n  next: {AGAIN}")
    _check_digests(folder, dict((manifest or {}).get("sha256", {})))
    own = {"dataset": "own", "partition": "own", "examples": len(arrays.train_labels)}
    return Shard(**vars(arrays), manifest=own | (manifest or {}))


def _check_digests(folder: Path, digests: dict[str, str]) -> None:
    """A manifest without digests, or none at all, is a site's own affair; one that contradicts the files is an error."""
    for path in (folder / f"{name}.npy" for name in ARRAYS):
        with path.open("rb") as file:
            if digests.get(path.name, digest := hashlib.file_digest(file, "sha256").hexdigest()) != digest:
                raise ShardError(f"{path} is not what {MANIFEST} describes (its SHA-256 differs)\n  next: {AGAIN}")


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path} can't be read: {error}\n  next: write it again with numpy.save") from None
    shape = IMAGE if path.stem.endswith("images") else ()
    if array.dtype != np.uint8 or not array.ndim or array.shape[1:] != shape:
        raise ShardError(f"{path} holds {array.dtype} {array.shape}, not uint8 {('N', *shape)}\n  next: convert it")
    if not len(array):
        raise ShardError(f"{path} holds no examples\n  next: write it again with at least one")
    if path.stem.endswith("labels") and array.max() >= CLASSES:
        raise ShardError(f"{path} holds label {array.max()}; labels go from 0 to {CLASSES - 1}\n  next: renumber the classes")
    return np.asarray(array)
