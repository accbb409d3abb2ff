"""Text that others wrote, on its way to a person's terminal: the one place where the console reads containers' answers, and prints.

A site's names, errors and devices reach the operator's terminal. Whatever could steer that terminal, hide text or make up a line of
the console's own is taken out of them where they are read (`parse`, `clean`), and once more where anything is printed (`say`).
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import Any, TextIO

LONGEST_FIELD = 500
LONGEST_LINE = 4000
DEEPEST = 20
# Escape sequences go as a whole: what is left of one would be read as text. A string that has no end stops at its line's.
STRINGS = re.compile("(?:\x1b[P\\]X^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\\\|\x9c)?")
SEQUENCES = re.compile("(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")
BREAKS = re.compile("[\t\n\x0b\x0c\r\x85\u2028\u2029]+")
# C0, DEL and C1; marks that turn the reading direction, that have no width, or that hide text (tags); halves of a character.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(told: object, most: int = LONGEST_FIELD) -> str:
    """One line of plain text, at most about `most` characters long, from whatever it was."""
    # What is far too long to be shown is not searched either.
    return shorten(INVISIBLE.sub("", BREAKS.sub(" ", _plain(str(told)[: 20 * most]))).strip(), most)


def quoted(told: str, most: int = 15) -> str:
    """The last lines of a log, each marked as a quotation: none of them reads as a line of the console's own."""
    return "\n".join(f"  | {clean(line)}" for line in told.strip().splitlines()[-most:])


def shorten(text: str, most: int) -> str:
    """The text, or its beginning and how much is missing."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most} more)"


def _plain(text: str) -> str:
    return SEQUENCES.sub("", STRINGS.sub("", text))


def parse(line: str) -> dict[str, Any]:
    """A JSON object that a container printed, every string in it one clean line; keys are strings like the others.

    Raises:
        ValueError: it is none.
    """
    try:
        told = json.loads(line)
        if not isinstance(told, dict):
            raise ValueError("no JSON object")
        return {clean(key): _cleaned(value) for key, value in told.items()}
    except RecursionError:
        raise ValueError("a JSON object that is too deep") from None


def objects(text: str) -> list[dict[str, Any]]:
    """Every line of a command's output that is a JSON object, see `parse`; other lines are left out."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(parse(line))
    return found


def _cleaned(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return clean(value)
    if depth == DEEPEST:
        return None
    if isinstance(value, dict):
        return {clean(key): _cleaned(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, depth + 1) for inner in value]
    return value


def say(text: object = "", file: TextIO | None = None) -> None:
    """Prints lines at once, without anything but text in them. Lines are the console's own: what others wrote went through `clean`."""
    lines = str(text).replace("\r\n", "\n").split("\n")
    shown = "\n".join(shorten(INVISIBLE.sub("", _plain(line).replace("\r", " ")), LONGEST_LINE) for line in lines)
    stream = file or sys.stdout
    encoding = stream.encoding or "utf-8"  # a terminal that can't show a letter gets its number
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def warn(text: object) -> None:
    """As `say`, on stderr."""
    say(text, sys.stderr)


def ask(question: str) -> str:
    """A person's answer, in small letters; only where there is a terminal (`sys.stdin.isatty()`)."""
    return input(shorten(INVISIBLE.sub("", _plain(question)), LONGEST_LINE)).strip().lower()
