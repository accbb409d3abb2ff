"""Docker and Compose, as commands with a bound on their time."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multisite.console.settings import ConsoleError

COMMAND_SECONDS = 120.0
COMPOSE_LABEL = "com.docker.compose"
DISK_SECONDS = 60.0  # the engine looks at every file of every volume
UNITS = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
SIZE = re.compile(r"([0-9.]+)([kKMGT]?B)")
EXITED = re.compile(r"Exited \((\d+)\)")


@dataclass
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Container:
    """One of the deployment's containers.

    Attributes:
        service: its name in the compose files.
        state: `running`, `exited`, `restarting`, ...
        exit_code: of one that has exited; None otherwise.
    """

    service: str
    id: str
    state: str
    exit_code: int | None


@dataclass
class Docker:
    """Runs `docker` in the project's folder, with the settings in its environment.

    What can be had from `docker` itself is not asked of `docker compose`, which reads its files again each time: a fiftieth of a
    second of a core instead of a sixth.

    Attributes:
        home: the project's folder.
        project: Compose's name of the deployment.
        environment: variables beside the process's own.
    """

    home: Path
    project: str = ""
    environment: dict[str, str] = field(default_factory=dict)

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
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            return Result(127, "", "docker is not installed; `make up` installs it")
        except subprocess.TimeoutExpired:
            raise ConsoleError(
                "docker", f"`{' '.join(command)}` did not end within {seconds:.0f} s", "look at the engine: docker ps"
            ) from None
        return Result(done.returncode, done.stdout, done.stderr)

    def run_or_fail(self, step: str, next_step: str, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Runs `docker ARGUMENTS` and returns its output.

        Raises:
            ConsoleError: it failed.
        """
        result = self.run(arguments, seconds)
        if result.code:
            raise ConsoleError(step, (result.err or result.out).strip()[-2000:], next_step)
        return result.out

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> Result:
        """Runs `docker compose ARGUMENTS`."""
        return self.run(["compose", *arguments], seconds)

    def info(self) -> dict[str, Any]:
        """`docker info`; empty if no engine answers."""
        reply = self.run(["info", "--format", "{{json .}}"]).out
        info = dict(json.loads(reply)) if reply.startswith("{") else {}
        return info if info.get("ServerVersion") else {}

    def containers(self) -> dict[str, Container]:
        """The deployment's containers by service, one-shots and stopped ones included."""
        listed = self.run_or_fail(
            "docker ps", "look at the engine: docker ps", "ps", "--all", "--no-trunc",
            "--filter", f"label={COMPOSE_LABEL}.project={self.project}", "--filter", f"label={COMPOSE_LABEL}.oneoff=False",
            "--format", f'{{{{.Label "{COMPOSE_LABEL}.service"}}}}\t{{{{.ID}}}}\t{{{{.State}}}}\t{{{{.Status}}}}',
        )  # fmt: skip
        found = {}
        for line in listed.splitlines():
            service, identity, state, status = line.split("\t")
            exited = EXITED.match(status)
            found[service] = Container(service, identity, state, int(exited[1]) if exited else None)
        return found

    def volumes(self) -> dict[str, float]:
        """Bytes of each of the deployment's volumes, by its name in compose.yaml; empty where the engine does not say."""
        result = self.run(["system", "df", "--verbose", "--format", "{{json .Volumes}}"], seconds=DISK_SECONDS)
        try:
            listed = json.loads(result.out)
        except ValueError:
            return {}
        prefix = f"{self.project}_"
        found = {}
        for volume in listed if isinstance(listed, list) else []:
            size = SIZE.fullmatch(str(volume.get("Size", "")))
            if size and str(volume.get("Name", "")).startswith(prefix):
                found[str(volume["Name"])[len(prefix) :]] = float(size[1]) * UNITS[size[2]]
        return found

    def published(self, service: str) -> tuple[str, int] | None:
        """The host's address and port on which a service's container is published; None if it is not."""
        form = '{{range .HostConfig.PortBindings}}{{range .}}{{or .HostIp "0.0.0.0"}} {{.HostPort}}{{end}}{{end}}'
        found = self.containers().get(service)
        reply = self.run(["inspect", "--format", form, found.id]).out.split() if found else []
        return (reply[0], int(reply[1])) if len(reply) == 2 else None

    def local_sites(self) -> list[str]:
        """The sites that have a container here."""
        return sorted(name for name in self.containers() if name.startswith("site-"))

    def running(self, service: str) -> bool:
        """Whether a service's container runs."""
        found = self.containers().get(service)
        return found is not None and found.state == "running"

    def exec_arguments(self, service: str, *command: str) -> list[str]:
        """`docker` arguments that run a command in a service's container.

        Raises:
            ConsoleError: it has none.
        """
        found = self.containers().get(service)
        if found is None:
            raise ConsoleError("deployment", f"there is no {service} container", "make up")
        return ["exec", found.id, *command]

    def exec(self, service: str, *command: str, seconds: float = COMMAND_SECONDS) -> Result:
        """Runs a command in a service's container."""
        return self.run(self.exec_arguments(service, *command), seconds)
