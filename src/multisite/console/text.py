"""Text that others wrote, on its way to a person's terminal: the one place where the console reads containers' answers, and prints.

A site's names, errors and devices reach the operator's terminal. Whatever could steer that terminal, hide text or make up a line of
the console's own is taken out of them where they are read (`parse`, `clean`), and once more where anything is printed (`say`).
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, TextIO

from multisite.text import clean, shorten, visible, without_sequences

LONGEST_LINE = 4000
DEEPEST = 20


def quoted(log: str, most: int = 15) -> str:
    """The last lines of a log, each marked as a quotation: none of them reads as a line of the console's own."""
    return "\n".join(f"  | {clean(line)}" for line in log.strip().splitlines()[-most:])


def parse(line: str) -> dict[str, Any]:
    """A JSON object that a container printed, every string in it one clean line; keys are strings like the others.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(line)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return {clean(key): _cleaned(value) for key, value in content.items()}
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
    shown = "\n".join(shorten(visible(without_sequences(line).replace("\r", " ")), LONGEST_LINE) for line in lines)
    stream = file or sys.stdout
    encoding = stream.encoding or "utf-8"  # a terminal that can't show a letter gets its number
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def warn(text: object) -> None:
    """As `say`, on stderr."""
    say(text, sys.stderr)


def ask(question: str) -> str:
    """A person's answer, in small letters; only where there is a terminal (`sys.stdin.isatty()`)."""
    return input(shorten(visible(without_sequences(question)), LONGEST_LINE)).strip().lower()
