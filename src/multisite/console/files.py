"""What is wrong with a file on the host, and what to do about it."""

from __future__ import annotations

import errno
import getpass
import os
import shlex
from pathlib import Path

from multisite.text import clean


def problem(error: OSError) -> str:
    """The file, what is wrong with it and, where its rights are the trouble, whose it is."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return clean(error)
    text = f"{os.fspath(error.filename)}: {error.strerror}"
    owner = _owner(Path(error.filename)) if isinstance(error, PermissionError) else ""
    return f"{text} ({owner})" if owner else text


def next_step(error: OSError, home: Path) -> str:
    """What cures it.

    Args:
        error: of a file.
        home: the project's folder: what make run with sudo left there is more than one file.
    """
    if isinstance(error, PermissionError) and isinstance(error.filename, (str, os.PathLike)):
        place = _existing(Path(error.filename))
        place = home if home in place.parents else place
        return f"sudo chown -R {getpass.getuser()} {shlex.quote(str(place))} (was make run with sudo before?)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free disk space"
    return "look at that file, then run it again"


def _existing(path: Path) -> Path:
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _owner(path: Path) -> str:
    place = _existing(path)
    try:
        return f"{place} belongs to {place.owner()}"
    except (OSError, KeyError):
        return ""
