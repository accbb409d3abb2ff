"""Docker and Compose, as commands with a bound on their time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multisite.console.settings import ConsoleError

COMMAND_SECONDS = 120.0


@dataclass
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str


@dataclass
class Docker:
    """Runs `docker` in the project's folder, with the settings in its environment.

    Attributes:
        home: the project's folder.
        environment: variables beside the process's own.
    """

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    _sites: dict[str | None, list[str]] = field(default_factory=dict)

    def env(self) -> dict[str, str]:
        """The environment of every command."""
        return {**os.environ, **self.environment}

    def run(self, arguments: Sequence[str], seconds: float = COMMAND_SECONDS) -> Result:
        """Runs `docker ARGUMENTS` and returns what it gave, whatever its exit status.

        Raises:
            ConsoleError: it did not end within `seconds`.
        """
        command = ["docker", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=self.home,
                env=self.env(),
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ConsoleError(
                "docker", f"`{' '.join(command)}` did not end within {seconds:.0f} s", "look at the engine: docker ps"
            ) from None
        return Result(done.returncode, done.stdout, done.stderr)

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> Result:
        """Runs `docker compose ARGUMENTS`."""
        return self.run(["compose", *arguments], seconds)

    def compose_or_fail(self, step: str, next_step: str, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Runs `docker compose ARGUMENTS` and returns its output.

        Raises:
            ConsoleError: it failed.
        """
        result = self.compose(*arguments, seconds=seconds)
        if result.code:
            raise ConsoleError(step, (result.err or result.out).strip()[-2000:], next_step)
        return result.out

    def services(self) -> list[dict[str, str]]:
        """The deployment's containers, one-shots and stopped ones included: Service, State, Health, ExitCode, ..."""
        out = self.compose_or_fail("docker compose ps", "docker compose ps", "ps", "--all", "--format", "json")
        return [json.loads(line) for line in out.splitlines() if line.strip()]

    def local_sites(self) -> list[str]:
        """Site services of this host's compose files. Asked once for each set of them."""
        files = self.environment.get("COMPOSE_FILE")
        if files not in self._sites:
            out = self.compose_or_fail("settings", "correct compose.yaml or .env", "config", "--services")
            self._sites[files] = sorted(name for name in out.split() if name.startswith("site-"))
        return self._sites[files]

    def running(self, service: str) -> bool:
        """Whether a service's container runs."""
        return any(entry["Service"] == service and entry["State"] == "running" for entry in self.services())
