"""Reading `.env` as Compose does. What Compose would read in another way than a person may mean is refused by its line."""

from __future__ import annotations

import re
from pathlib import Path

LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
QUOTED = re.compile(r"""(?:'([^']*)(?<!\\)'|"([^"\\$]*)")\s*(?:#.*)?""")
COMMENT = " #"  # what begins one behind a value that is not quoted (compose-go, `dotenv/parser.go`)


class BadLine(Exception):
    """A line of an env file can't be read. Its text is not shown: it may be the one with a key.

    Attributes:
        number: of the line.
        problem: what is wrong with it.
    """

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number} {problem}")
        self.number = number
        self.problem = problem


def read_assignments(path: Path) -> dict[str, tuple[str, int]]:
    """Name -> value and line number, of each assignment; the last one of a name counts.

    Raises:
        BadLine: a line is no assignment, or its value is not plain.
    """
    values: dict[str, tuple[str, int]] = {}
    if not path.exists():
        return values
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if not match:
            raise BadLine(number, "is no NAME=value")
        values[match[1]] = _value(match[2].strip(), number), number
    return values


def _value(text: str, number: int) -> str:
    if text[:1] in ("'", '"'):
        quoted = QUOTED.fullmatch(text)
        if quoted is None:
            raise BadLine(
                number, "has a quote that does not end, more behind it, or a $ or \\ within \"...\": put the value in '...'"
            )
        return quoted[1] or quoted[2] or ""
    value = text.partition(COMMENT)[0].rstrip()
    if "$" in value:
        raise BadLine(number, "has a $, which Compose takes for another variable: put the value in '...'")
    return value
