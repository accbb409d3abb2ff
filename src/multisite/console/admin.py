"""One command in the admin's container, and its answer."""

from __future__ import annotations

from typing import Any

from multisite.console.docker import Docker
from multisite.console.text import objects
from multisite.text import clean

COMMAND_LINE = ("python", "-m", "multisite.admin.command_line")


def ask(docker: Docker, *arguments: str, seconds: float = 120.0) -> list[dict[str, Any]]:
    """Runs one command of `admin.command_line` and returns its lines; one with `event: error` where it said nothing."""
    result = docker.exec("admin", *COMMAND_LINE, *arguments, seconds=seconds)
    silent = {"event": "error", "message": clean((result.err.strip().splitlines() or ["no answer"])[-1])}
    return objects(result.out) or [silent]
