"""W&B's own variables in the environment: which of them count, and that an empty one is none."""

from __future__ import annotations

import os
from typing import Any

from multisite.text import clean
from multisite.tracking.arguments import ArgumentRefused, checked_wandb_args
from multisite.tracking.troubles import Refusal

# Of `wandb.init`'s arguments: the variables that the SDK has for them.
FIRST = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "tags": "WANDB_TAGS"}
DEFAULTS = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "notes": "WANDB_NOTES", "job_type": "WANDB_JOB_TYPE"}


def drop_empty_settings() -> None:
    """Takes every empty WANDB_* variable out of the environment: Compose passes unset ones so, and the SDK takes them for values."""
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
        del os.environ[name]


def with_operator_settings(wandb_args: dict[str, Any]) -> dict[str, Any]:
    """`wandb_args`, with what the environment says: the variables of FIRST go before a job's, those of DEFAULTS behind, as in the SDK.

    A project is one of an entity: where the operator set the project alone, it is the one of the key's own entity, not of a job's.

    Raises:
        Refusal: a variable that counts is nothing that W&B takes.
    """
    settings = dict(wandb_args)
    if os.environ.get("WANDB_PROJECT", "").strip():
        settings.pop("entity", None)
    for name, variable in (FIRST | DEFAULTS).items():
        text = os.environ.get(variable, "").strip()
        value = [tag.strip() for tag in text.split(",") if tag.strip()] if name == "tags" else text
        if not value or (name in DEFAULTS and name in settings):
            continue
        try:
            settings |= checked_wandb_args({name: value})
        except ArgumentRefused as refused:
            problem = str(refused).replace(f"wandb_args: {name}", f"{variable}={clean(text, 40)}", 1)
            raise Refusal("misconfigured", f"{problem}; next: correct it, or unset it") from None
    return settings
