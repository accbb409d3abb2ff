"""Text that came from a site, made fit for logs, terminals and tables: a site's operator may have written anything into it."""

from __future__ import annotations

import math
import re
from typing import Any

LONGEST = 500
# ANSI sequences as a whole (CSI, OSC, and the two-character ones), then every other control and direction character.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?"
    r"|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
_NOT_PRINTED = re.compile(_CONTROL.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))  # the same, but for line breaks and tabs
_FORMULA = ("=", "+", "-", "@")


def plain(value: object, longest: int = LONGEST) -> str:
    """One line without control characters; a line break becomes a space, what is longer than `longest` ends in `...`."""
    text = re.sub(r" {2,}", " ", _CONTROL.sub(" ", str(value)[: 4 * longest])).strip()
    return text if len(text) <= longest else text[: longest - 3] + "..."


def printable(text: str) -> str:
    """Several lines without other control characters. A line after the first is set in: it can't pass for one of its own."""
    return _NOT_PRINTED.sub(" ", text).replace("\n", "\n    ")


def cell(value: Any) -> Any:
    """A value for a CSV cell that no spreadsheet takes for a formula (OWASP, "CSV Injection"): numbers stay what they are."""
    if isinstance(value, (int, float)) or value is None:
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def number(value: object) -> float | None:
    """A finite number, or None, which JSON can write."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
