"""Every override of NVFlare, one a module, chosen by PATCHES: `all` (the default), `none`, or names with commas between them.

A patch has `UPSTREAM`, the digest of every function that it stands in for or relies on, and `apply`. Where NVFlare's source differs from
the digest the patch is left out, and one line of the log says so: the job then completes as NVFlare alone completes it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import os
from collections.abc import Mapping

NAMES = ("client_api_poll", "early_frames", "metric_log")
VARIABLE = "PATCHES"

logger = logging.getLogger("multisite.patches")


def chosen(setting: str) -> tuple[str, ...]:
    """The patches that PATCHES names.

    Raises:
        ValueError: it names one that is none.
    """
    if setting in ("", "all"):
        return NAMES
    names = () if setting == "none" else tuple(name.strip() for name in setting.split(","))
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"{VARIABLE}={setting}: {unknown[0]!r} is no patch; next: all, none, or some of {', '.join(NAMES)}")
    return names


def digest(name: str) -> str:
    """Of the source of an upstream function, `module:Class.function`; empty where there is none of that name."""
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:16]
    except (ImportError, AttributeError, TypeError, OSError):
        return ""


def changed(upstream: Mapping[str, str]) -> list[str]:
    """The functions whose source is not the one that a patch was written for."""
    return [name for name, known in upstream.items() if digest(name) != known]


def apply(setting: str | None = None) -> list[str]:
    """Applies the chosen patches to this process; to be called before NVFlare starts in it.

    Args:
        setting: see `chosen`; the environment's PATCHES if None.

    Returns:
        The names of those that were applied.

    Raises:
        ValueError: see `chosen`.
    """
    applied = []
    for name in chosen(os.environ.get(VARIABLE, "") if setting is None else setting):
        patch = importlib.import_module(f"{__name__}.{name}")
        if different := changed(patch.UPSTREAM):
            logger.warning("patch %s is left out: this NVFlare's %s is not the one that it was written for", name, different[0])
            continue
        patch.apply()
        applied.append(name)
    return applied
