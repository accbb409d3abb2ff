"""Text that others wrote, on its way to a log, a table or a terminal: a site's operator may have written anything into it.

Standard library only: the host's console reads it too.
"""

from __future__ import annotations

import math
import re
from typing import Any

LONGEST = 400
# Escape sequences go as a whole: what is left of one would be read as text. A string that has no end stops at its line's.
STRINGS = re.compile("(?:\x1b[P\\]X^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\\\|\x9c)?")
SEQUENCES = re.compile("(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")
BREAKS = re.compile("[\t\n\x0b\x0c\r\x85\u2028\u2029]+")
# C0, DEL and C1; marks that turn the reading direction, that have no width, or that hide text (tags); halves of a character.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
FORMULA = ("=", "+", "-", "@")


def clean(value: object, longest: int = LONGEST) -> str:
    """One line of printable text, at most `longest` characters long, from whatever it was; a line break becomes a space."""
    # What is far too long to be shown is not searched either.
    text = visible(BREAKS.sub(" ", without_sequences(str(value)[: 20 * longest]))).strip()
    return "".join(letter if letter.isprintable() else " " for letter in shorten(text, longest))


def printable(text: str) -> str:
    """Several lines of plain text. A line after the first is set in: it can't pass for one of its own."""
    return "\n    ".join(visible(BREAKS.sub(" ", line)) for line in without_sequences(text).split("\n"))


def visible(text: str) -> str:
    """Without the characters that show nothing and change what is shown."""
    return INVISIBLE.sub("", text)


def without_sequences(text: str) -> str:
    """Without what a terminal takes for a command."""
    return SEQUENCES.sub("", STRINGS.sub("", text))


def shorten(text: str, longest: int) -> str:
    """The text, or as much of its beginning as fits, with how much is missing."""
    if len(text) <= longest:
        return text
    begin = max(0, longest - len(f"... ({len(text)} more)"))
    return f"{text[:begin]}... ({len(text) - begin} more)"[:longest]


def cell(value: Any) -> Any:
    """A value for a CSV cell that no spreadsheet takes for a formula (OWASP, "CSV Injection"): numbers stay what they are."""
    if isinstance(value, (int, float)) or value is None:
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def number(value: object) -> float | None:
    """A finite number, or None, which JSON can write."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
