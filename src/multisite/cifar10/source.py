"""Where the examples come from: a local copy of CIFAR-10, a verified download, or a synthetic set of the same format."""

from __future__ import annotations

import hashlib
import http.client
import socket
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

from multisite.cifar10.shards import CLASSES, IMAGE, Arrays

FOLDER = "cifar-10-batches-py"
PLACEHOLDER = "README"  # all that is in the folder which is mounted where the user names none
# Of the files of the python version, as the CIFAR-10 page and torchvision give them.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
DOWNLOAD_SECONDS = 30.0  # without a byte
DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
SYNTHETIC_SIZES = (50_000, 10_000)


class SourceError(Exception):
    """CIFAR-10 can't be had. The message names the file and the next step."""


def find_copy(folder: Path) -> Path | None:
    """The folder of CIFAR-10's python version in or under `folder`; None if there is none."""
    for candidate in (folder, folder / FOLDER):
        if any((candidate / name).exists() for name in MD5):
            return candidate
    return None


def verify(folder: Path) -> None:
    """
    Raises:
        SourceError: a file is missing or differs from the published one.
    """
    for name, expected in MD5.items():
        path = folder / name
        if not path.exists():
            raise SourceError(f"{path} is missing\n  next: complete the copy, or leave CIFAR10_DIR empty")
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != expected:
            raise SourceError(
                f"{path} is not the published file (its MD5 differs)\n  next: copy it again, or leave CIFAR10_DIR empty"
            )


def is_given(local: Path | None) -> bool:
    """Whether the user gave a local copy: an empty folder, which is what gets mounted when none is named, is none.

    Raises:
        SourceError: there is no such folder.
    """
    if local is None:
        return False
    if not local.is_dir():
        raise SourceError(f"{local} is not a folder\n  next: set CIFAR10_DIR to the folder of {FOLDER}, or leave it empty")
    return bool(_content(local))


def find_local(local: Path) -> Path:
    """The folder of CIFAR-10's python version in or under the user's folder.

    Raises:
        SourceError: it holds something else.
    """
    copy = find_copy(local)
    if copy is None:
        content = _content(local)
        tail = ", ..." if len(content) > 5 else ""
        raise SourceError(
            f"{local} holds no {FOLDER} (there: {', '.join(content[:5])}{tail})\n"
            f"  next: unpack cifar-10-python.tar.gz there, set CIFAR10_DIR to the folder of {FOLDER}, or leave it empty"
        )
    return copy


def _content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != PLACEHOLDER and not path.name.startswith("."))


def read(folder: Path) -> Arrays:
    """CIFAR-10 from a verified copy, whatever its folder is called.

    Raises:
        SourceError: a file is missing or differs from the published one.
    """
    from torchvision.datasets import CIFAR10

    verify(folder)
    folder = folder.resolve()

    class Copy(CIFAR10):
        base_folder = folder.name

    train, test = (Copy(str(folder.parent), train=train, download=False) for train in (True, False))
    return Arrays(
        np.ascontiguousarray(train.data.transpose(0, 3, 1, 2)),
        np.array(train.targets, np.uint8),
        np.ascontiguousarray(test.data.transpose(0, 3, 1, 2)),
        np.array(test.targets, np.uint8),
    )


def download(cache: Path) -> Path:
    """Downloads CIFAR-10 with torchvision, unless `cache` holds it, verified, already.

    Returns:
        The folder of the copy.

    Raises:
        SourceError: the download failed.
    """
    from torchvision.datasets import CIFAR10

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        CIFAR10(str(cache), download=True)
    except DOWNLOAD_ERRORS as error:
        raise SourceError(
            f"CIFAR-10 could not be downloaded ({error})\n  next: set CIFAR10_DIR to a local copy ({FOLDER})"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return cache / FOLDER


def synthetic(seed: int = 0, sizes: tuple[int, int] = SYNTHETIC_SIZES) -> Arrays:
    """A learnable set in CIFAR-10's format: a smooth pattern a class, shifted at random, under noise."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(40, 215, (CLASSES, IMAGE[0], 4, 4))
    patterns = coarse.repeat(8, axis=2).repeat(8, axis=3)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, CLASSES, count, dtype=np.uint8)
        images = np.empty((count, *IMAGE), np.uint8)
        for start in range(0, count, 5_000):
            chosen = patterns[labels[start : start + 5_000]]
            noisy = np.roll(chosen, int(random.integers(0, 8)), axis=3) + random.normal(0, 60, chosen.shape)
            images[start : start + 5_000] = noisy.clip(0, 255).astype(np.uint8)
        return images, labels

    return Arrays(*draw(sizes[0]), *draw(sizes[1]))


def resolve(source: str, local: Path | None, cache: Path) -> tuple[str, Arrays]:
    """The dataset's name (`cifar10` or `synthetic`) and its examples.

    Args:
        source: `cifar10`, `synthetic`, or `auto`: CIFAR-10 where it can be had, else synthetic, announced in capitals.
        local: the user's local copy. One that is given but broken, or something else, is an error, never passed over.
        cache: where a download is kept; a broken one is fetched again.

    Raises:
        SourceError: CIFAR-10 was asked for, or given, and can't be had.
    """
    if source == "synthetic":
        return "synthetic", synthetic()
    if local and is_given(local):
        return "cifar10", read(find_local(local))
    try:
        return "cifar10", read(download(cache))
    except SourceError as error:
        if source == "cifar10":
            raise
        reason = str(error).splitlines()[0]
    print(f"SYNTHETIC DATA STANDS IN FOR CIFAR-10: {reason}. Set CIFAR10_DIR to a local copy.", file=sys.stderr)
    return "synthetic", synthetic()
