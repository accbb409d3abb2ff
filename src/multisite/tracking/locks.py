"""Locks that end with the process that holds them, however it ends.

A record log's lock is on the log itself, as in every release before. It is not a `filelock` (as the locks of whole processes are, see
`delivery.py`): such a lock can only be looked at by taking it, which makes files, and two that look at once would see each other.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

WAIT_SECONDS, POLL_SECONDS = 0.5, 0.005  # `is_locked` holds a lock for some microseconds: whoever wants it just then tries again


def lock(descriptor: int) -> None:
    """Locks an open file.

    Raises:
        BlockingIOError: another process has it locked.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def unlock(descriptor: int) -> None:
    """Unlocks an open file, also where a forked process (a data loader's, say) has it open too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Whether a living process has locked the file `path`, which need not exist. Writes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
