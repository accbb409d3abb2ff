"""The W&B API key: read from its file, checked for form, never printed, and not used where W&B is switched off."""

from __future__ import annotations

import os
import re
from pathlib import Path

SECRET = Path("/run/secrets/wandb_api_key")
KEY_FORM = re.compile(r"[\w-]{40,}", re.ASCII)  # what wandb 0.31 accepts


MODES = ("", "online", "offline", "disabled")
OFFLINE_MODES = ("offline", "dryrun", "disabled")  # of WANDB_MODE, as W&B's SDK reads it; `dryrun` is its old name of offline
TRUE = ("1", "true", "t", "yes", "y", "on")


class KeyProblem(Exception):
    """There is no key to use. The message says why and never holds the key."""


def switched_off() -> str:
    """The setting of the environment by which nothing is to be sent to W&B; empty if there is none."""
    if os.environ.get("WANDB_MODE", "").strip().lower() in OFFLINE_MODES:
        return f"WANDB_MODE={os.environ['WANDB_MODE'].strip()}"
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in TRUE:
        return f"WANDB_DISABLED={os.environ['WANDB_DISABLED'].strip()}"
    return ""


def read_key(path: Path = SECRET) -> str:
    """The API key in the file `path`, or, without that file (the simulator on a laptop), in WANDB_API_KEY.

    Raises:
        KeyProblem: no key, or one that W&B can't have issued, or W&B is switched off.
    """
    if setting := switched_off():
        raise KeyProblem(f"{setting}: nothing is sent, everything is kept; next: take the setting away, then make sync")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = os.environ.get("WANDB_API_KEY", "")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyProblem(f"the key file can't be read ({type(error).__name__})") from None
    return check_form(text)


def check_form(text: str) -> str:
    """The key in `text`, without white space around it.

    Raises:
        KeyProblem: empty, or not of a key's form.
    """
    key = text.strip()
    if not key:
        raise KeyProblem("no API key")
    if not KEY_FORM.fullmatch(key):
        raise KeyProblem(f"malformed API key ({len(key)} characters; W&B's have 40 or more letters, digits, - and _)")
    return key
