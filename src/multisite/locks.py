"""A lock between the processes and threads of one machine. It is on a file, and ends with its holder, however that one ends.

Standard library only: the host's console uses it too. The file stays: who deletes a locked file lets two in at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.1


class LockTimeout(Exception):
    """Somebody else holds the lock, and went on holding it."""


@contextlib.contextmanager
def held(path: Path, seconds: float, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock on the file `path`, which is made where it is missing.

    Args:
        seconds: how long to wait for another holder.
        waits: called once if there is one.

    Raises:
        LockTimeout: the other one held it longer than that.
        OSError: the file can't be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _taken(descriptor):
            waits()
            deadline = time.monotonic() + seconds
            while not _taken(descriptor):
                if time.monotonic() > deadline:
                    raise LockTimeout(f"another process holds {path} for more than {seconds:.0f} s")
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def note(path: Path) -> str:
    """What the last holder left in the lock's file; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def leave(path: Path, text: str) -> None:
    """Leaves a note in the lock's file; for its holder."""
    path.write_text(text, encoding="utf-8")
