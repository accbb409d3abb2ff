"""The small JSON files of the spool: written whole, and read as what they must be, whoever wrote them."""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multisite.text import LONGEST, clean

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# What a writer may report. `misconfigured`: the job's settings are none; nothing is tried until they change.
STATES = ("", "connecting", "online", "offline", "refused", "unreachable", "stalled", "done", "misconfigured")
REASON_CHARACTERS = LONGEST
NAME_SHOWN = 64  # of a name that is none
COUNT = 2**53  # more than any count is


class Damaged(ValueError):
    """What is in a file or a message is not what must be there. The message names the part and what it must be."""


def save_json(path: Path, content: Any, durable: bool = False) -> None:
    """Replaces `path`; the last of several that write at the same time wins. NaN and infinities, which JSON has not, become null.

    Args:
        path: of the file.
        content: of the file.
        durable: a power cut leaves the old file or the new one, and not an empty one. Costs some milliseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), allow_nan=False)
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(element) for name, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty if there is none, or none that can be read."""
    return read_json(path, dict)[0]


def read_json(path: Path, check: Callable[[dict[str, Any]], dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The object in `path`, as `check` accepts it, and why there is none: empty if there is no file either."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise Damaged("no JSON object")
        return check(content), ""
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"{path.name} can't be read: {error.strerror}"
    except Damaged as damaged:
        return {}, f"{path.name}: {damaged}"
    except (ValueError, RecursionError):
        return {}, f"{path.name}: no JSON"


def whole(content: dict[str, Any], name: str, most: int = COUNT) -> int:
    """A count.

    Raises:
        Damaged: it is missing, no whole number, or out of range.
    """
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Damaged(f"{name} must be a whole number from 0 to {most}")
    return value


def flag(content: dict[str, Any], name: str) -> bool:
    """A switch.

    Raises:
        Damaged: it is missing, or neither true nor false.
    """
    value = content.get(name)
    if not isinstance(value, bool):
        raise Damaged(f"{name} must be true or false")
    return value


def state_and_reason(content: dict[str, Any]) -> dict[str, str]:
    """Both may be absent.

    Raises:
        Damaged: an unknown state, or a reason that is no line of text.
    """
    state, reason = content.get("state", ""), content.get("reason", "")
    if not isinstance(state, str) or state not in STATES:
        raise Damaged(f"state must be one of {', '.join(STATES[1:])}, or empty")
    if not isinstance(reason, str) or len(reason) > REASON_CHARACTERS or not reason.isprintable():
        raise Damaged(f"reason must be one line of at most {REASON_CHARACTERS} printable characters")
    return {"state": state, "reason": reason}


def site_status(content: dict[str, Any], most: int = COUNT) -> dict[str, Any]:
    """`site.json`, and the same part of a message: the status of a site's log.

    Raises:
        Damaged: a field is missing or out of range, or more is delivered than was logged.
    """
    logged = whole(content, "logged", most)
    status = {"logged": logged, "refused": whole(content, "refused"), "closed": flag(content, "closed")}
    status |= {"forwards": flag(content, "forwards"), "delivered": whole(content, "delivered")}
    if status["delivered"] > logged:
        raise Damaged("delivered must not be more than logged")
    for name in ("state", "reason"):
        if name not in content:
            raise Damaged(f"{name} is missing")
    return {**status, **state_and_reason(content)}


def writer_status(content: dict[str, Any]) -> dict[str, Any]:
    """`writer.json`: `state`, `reason`, `url`, and `runs`: by site `id`, `delivered`, and, where there are any, `set_aside`, `unconfirmed`
    and `unfinished`.

    Raises:
        Damaged: it is no such thing.
    """
    runs, url = content.get("runs", {}), content.get("url", "")
    if not isinstance(runs, dict) or not isinstance(url, str):
        raise Damaged("runs must be an object, url a text")
    checked = {}
    for site, run in runs.items():
        if not NAME.fullmatch(site) or not isinstance(run, dict):
            raise Damaged("runs must be an object of sites")
        checked[site] = {"id": clean(str(run.get("id", ""))), "delivered": whole(run, "delivered")}
        if "unconfirmed" in run:
            checked[site]["unconfirmed"] = whole(run, "unconfirmed")
        if run.get("unfinished") is True:
            checked[site]["unfinished"] = True
        if "set_aside" in run:
            checked[site]["set_aside"] = set_aside_summary(run["set_aside"])
    return {**state_and_reason(content), "url": clean(url), "runs": checked}


def set_aside_summary(content: Any) -> dict[str, Any]:
    """`count`, `first` and `last` number of the records that could not be delivered, and the first one's `reason`.

    Raises:
        Damaged: it is no such thing.
    """
    if not isinstance(content, dict):
        raise Damaged("set_aside must be an object")
    counts = {name: whole(content, name) for name in ("count", "first", "last")}
    return {**counts, "reason": clean(str(content.get("reason", "")))}


def route(content: dict[str, Any]) -> dict[str, Any]:
    """`route.json`: whether the records go to the server.

    Raises:
        Damaged: it does not say.
    """
    return {"forwards": flag(content, "forwards")}


def refused_count(content: dict[str, Any]) -> dict[str, Any]:
    """`refused.json`: how many records the disk did not take.

    Raises:
        Damaged: it does not say.
    """
    return {"count": whole(content, "count")}


def refusals(content: dict[str, Any]) -> dict[str, Any]:
    """`refusals.json`: by site and kind, how many messages were refused, when one was noted last (seconds since 1970), and why.

    Raises:
        Damaged: it is no such thing.
    """
    for site, kinds in content.items():
        if not NAME.fullmatch(site) or not isinstance(kinds, dict):
            raise Damaged("an object of sites")
        for known in kinds.values():
            if (
                not isinstance(known, dict)
                or not isinstance(known.get("time"), (int, float))
                or not isinstance(known.get("reason"), str)
            ):
                raise Damaged("each with count, time and reason")
            whole(known, "count")
    return content


def checked_name(name: str) -> str:
    """`name`, if it is one that a job or a site can have: it becomes a folder's.

    Raises:
        ValueError: it is not.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{clean(name, NAME_SHOWN)!r} is no name of a job or a site")
    return name


def folders(parent: Path) -> list[Path]:
    """Those of a job or a site in `parent`, if there is such a folder."""
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir() and NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def changed_at(path: Path) -> float:
    """When it was last changed; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
