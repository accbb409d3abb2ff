"""What a job may say of its metrics: the one check of the arguments of WandbReceiver and MetricsRecorder, and of `job.json`.

NVFlare builds both components with whatever arguments a job gives, so whoever may submit a job chooses them. `wandb.init` takes files,
URLs, modules and settings of the SDK among its arguments: only the names below get through, each with a type and a bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from multisite.tracking.files import NAME, Damaged, whole

NAME_CHARACTERS = 128  # of a name; W&B refuses longer ones
TAG_CHARACTERS, TAGS = 64, 32
NOTES_CHARACTERS = 10_000
CONFIG_BYTES, CONFIG_DEPTH = 64 * 1024, 20
AXES, AXIS_CHARACTERS = 100, 256
WAIT_SECONDS = 3600.0
ENDED = ("", "completed", "failed", "aborted")
NOT_IN_A_PROJECT = frozenset("/\\#?%:")  # W&B's rule; a `/` would name another entity


class ArgumentRefused(Damaged):
    """An argument is not one that a job may give. The message names it and what is allowed."""


def _text(name: str, value: Any, most: int = NAME_CHARACTERS) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ArgumentRefused(f"{name} must be text of at most {most} printable characters")
    return value


def _place(name: str, value: Any) -> str:
    text = _text(name, value)
    if NOT_IN_A_PROJECT & set(text):
        raise ArgumentRefused(f"{name} must be a name without any of {' '.join(sorted(NOT_IN_A_PROJECT))}")
    return text


def _notes(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > NOTES_CHARACTERS or not value.replace("\n", "").replace("\t", "").isprintable():
        raise ArgumentRefused(f"{name} must be text of at most {NOTES_CHARACTERS} characters")
    return value


def _tags(name: str, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or len(value) > TAGS:
        raise ArgumentRefused(f"{name} must be a list of at most {TAGS} texts")
    return [_text(f"{name}: each", tag, TAG_CHARACTERS) for tag in value]


def _config(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArgumentRefused(f"{name} must be an object of names and values (a file is not read)")
    _plain_json(name, value, CONFIG_DEPTH)
    if len(json.dumps(value)) > CONFIG_BYTES:
        raise ArgumentRefused(f"{name} must have at most {CONFIG_BYTES} bytes")
    return value


def _plain_json(name: str, value: Any, depth: int) -> None:
    """Refuses what is no JSON, or deeper than `depth`, or what the SDK takes for more than a value: an artifact, its own part."""
    if depth < 0:
        raise ArgumentRefused(f"{name} must not be nested deeper than {CONFIG_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or "_wandb" in value or value.get("_type") == "artifactVersion":
            raise ArgumentRefused(f"{name} must have texts for names, and neither `_wandb` nor an artifact")
        for element in value.values():
            _plain_json(name, element, depth - 1)
    elif isinstance(value, (list, tuple)):
        for element in value:
            _plain_json(name, element, depth - 1)
    elif isinstance(value, str):
        if value.startswith("wandb-artifact:"):
            raise ArgumentRefused(f"{name} must not name an artifact")
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise ArgumentRefused(f"{name} must be plain JSON, not {type(value).__name__}")


WANDB_ARGUMENTS: dict[str, Callable[[str, Any], Any]] = {
    "project": _place,
    "entity": _place,
    "name": _text,
    "group": _text,
    "job_type": _text,
    "tags": _tags,
    "notes": _notes,
    "config": _config,
}


def checked_wandb_args(value: Any) -> dict[str, Any]:
    """Arguments of `wandb.init`, without those that are null.

    Raises:
        ArgumentRefused: one is not among WANDB_ARGUMENTS, or out of range.
    """
    if not isinstance(value, dict):
        raise ArgumentRefused(f"wandb_args must be an object of {', '.join(WANDB_ARGUMENTS)}")
    for name in value:
        if name not in WANDB_ARGUMENTS:
            raise ArgumentRefused(f"wandb_args: {str(name)[:40]!r} is not allowed in a job; allowed: {', '.join(WANDB_ARGUMENTS)}")
    given = {name: element for name, element in value.items() if element is not None}
    return {name: WANDB_ARGUMENTS[name](f"wandb_args: {name}", element) for name, element in given.items()}


def checked_axes(value: Any) -> dict[str, str]:
    """Metric pattern -> x axis, as `define_metric` takes them: a `*` stands last or nowhere.

    Raises:
        ArgumentRefused: they are no such thing.
    """
    if not isinstance(value, dict) or len(value) > AXES:
        raise ArgumentRefused(f"axes must be an object of at most {AXES} metric patterns, each with the name of its x axis")
    for pattern, axis in value.items():
        for text in (pattern, axis):
            if not _text("axes: each name", text, AXIS_CHARACTERS):
                raise ArgumentRefused("axes: a name must not be empty")
        if "*" in pattern[:-1] or "*" in axis:
            raise ArgumentRefused("axes: a `*` may stand only at the end of a pattern")
    return dict(value)


def checked_wait_seconds(value: Any) -> float:
    """How long a job's end may wait.

    Raises:
        ArgumentRefused: no number of seconds from 0 to an hour.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= WAIT_SECONDS:
        raise ArgumentRefused(f"wait_seconds must be a number from 0 to {WAIT_SECONDS:.0f}")
    return value


def checked_flag(name: str, value: Any) -> bool:
    """A switch.

    Raises:
        ArgumentRefused: neither true nor false.
    """
    if not isinstance(value, bool):
        raise ArgumentRefused(f"{name} must be true or false")
    return value


def checked_artifact(value: Any) -> str:
    """The name of a file in the run's own model folder; empty for none.

    Raises:
        ArgumentRefused: it could name a file elsewhere, or more than one.
    """
    if value == "":
        return ""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ArgumentRefused("artifact must be the plain name of a file in the job's model folder, without a folder or a pattern")
    return value


def job_settings(job: str, owner: str, wandb_args: dict[str, Any], axes: dict[str, str], artifact: bool = False) -> dict[str, Any]:
    """The content of `job.json`, for `checked_settings`. NVFlare's job is the job's first attempt.

    Args:
        job: its id, as the user knows it.
        owner: the site, or the server, whose log's end is the job's end.
        wandb_args: of `wandb.init`, checked.
        axes: metric pattern -> x axis other than `step`, checked.
        artifact: whether the job hands over a model.
    """
    return {"wandb": wandb_args, "axes": axes, "owner": owner, "artifact": artifact, "job": job, "attempt": 1, "ended": ""}


def checked_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The content of `job.json`, as `job_settings` makes it.

    `attempt` counts the NVFlare jobs that one job took, from 1. It is 0 for a job from before rows carried their numbers.
    `ended` is empty until the job has ended; a job from before that was noted is taken for completed.

    Raises:
        ArgumentRefused: it is anything else.
    """
    for name in ("wandb", "owner"):
        if name not in content:
            raise ArgumentRefused(f"{name} is missing")
    owner = content["owner"]
    if not isinstance(owner, str) or (owner and not NAME.fullmatch(owner)):
        raise ArgumentRefused("owner must be the name of a site")
    artifact = content.get("artifact", False)
    job = content.get("job", "")
    if not isinstance(job, str) or (job and not NAME.fullmatch(job)):
        raise ArgumentRefused("job must be a job's id")
    ended = content.get("ended", "completed")
    if ended not in ENDED:
        raise ArgumentRefused(f"ended must be one of {', '.join(ENDED[1:])}, or empty")
    return {
        "job": job,
        "ended": ended,
        "attempt": whole(content, "attempt") if "attempt" in content else 0,
        "wandb": checked_wandb_args(content["wandb"]),
        "axes": checked_axes(content.get("axes", {})),
        "owner": owner,
        # Jobs from before this was a yes or no have the place here, which is always the same.
        "artifact": bool(artifact) if isinstance(artifact, str) else checked_flag("artifact", artifact),
    }
