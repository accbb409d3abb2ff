"""The deployment's containers: what `docker compose up` would change, and that it does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError
from multisite.console.text import say
from multisite.text import clean

START_SECONDS = 900.0
ONE_SHOTS = ("data", "provision")
PROVISION = ("python", "-m", "multisite.provisioning.provision")
CHANGE = re.compile(r"Container (\S+) +(Recreate|Creating|Removed)\s*$", re.MULTILINE)
PROGRESS = re.compile(r"(DRY-RUN MODE - +)?(Container|Network|Volume|Image|Pod) \S+ ")
NEW_KITS, NONE_NEW = "new kits: ", "kits are up to date"  # as `provisioning.provision` says it, in its last line


@dataclass
class Containers:
    """What `make up` does with containers, after everything that can be checked was."""

    docker: Docker

    def changes(self) -> list[str]:
        """The services whose container would be made, made anew or removed: Compose's own dry run says so.

        Raises:
            ConsoleError: Compose can't read its files.
        """
        dry = self.docker.compose("--dry-run", "up", "--detach", "--remove-orphans")
        if dry.code:
            raise ConsoleError(
                "compose files", complaint(dry.err), "correct COMPOSE_EXTRA or the settings in .env; docker compose config"
            )
        return sorted({self._service(name) for name, _ in CHANGE.findall(dry.err + dry.out)})

    def outdated(self) -> list[str]:
        """The services whose container runs and would be made anew, or removed."""
        there = self.docker.containers()
        return [name for name in self.changes() if name in there and there[name].state == "running"]

    def _service(self, container: str) -> str:
        name = container[container.find(f"{self.docker.project}-") + len(self.docker.project) + 1 :]
        return name.rpartition("-")[0]

    def prepare(self) -> str:
        """Runs the one-shots, while whatever else runs is left as it is. Says whose kit is new, and returns it as provisioning said it.

        Raises:
            ConsoleError: one of them failed.
        """
        self._run("data")
        said = self._run("provision")
        for line in said.splitlines():
            if line != NONE_NEW:
                say(clean(line))
        return said

    def _run(self, name: str) -> str:
        result = self.docker.compose("run", "--rm", "--no-deps", "-T", name, seconds=START_SECONDS)
        if result.code:
            words, _, advice = said_by(name, result.err + result.out).partition("\n  next: ")
            raise ConsoleError(name, words, advice or "correct the setting in .env that it names, or COMPOSE_EXTRA's file")
        return result.out

    def start(self) -> None:
        """`docker compose up --detach`.

        Raises:
            ConsoleError: a container can't be made or started.
        """
        made = self.docker.compose("up", "--detach", "--remove-orphans", "--quiet-pull", seconds=START_SECONDS)
        if made.code:
            raise ConsoleError("containers", complaint(made.err), "docker compose ps --all; docker compose logs")

    def renew(self, said: str, standing: list[str]) -> None:
        """Restarts the participants that ran on while they were given a new kit: by themselves they would, seconds after `make up`.

        Args:
            said: what provisioning said.
            standing: the services that ran.
        """
        stale = sorted(set(kits_of(said)) & set(standing))
        if stale:
            self.docker.run_or_fail("new kits", "docker compose ps --all", "compose", "restart", *stale)

    def new_kits(self) -> list[str]:
        """The services that would get a new kit from what project.yml and the settings say; nothing is changed.

        Raises:
            ConsoleError: they can't be made.
        """
        command = ["compose", "run", "--rm", "--no-deps", "-T", "provision", *PROVISION, "--dry-run"]
        done = self.docker.run(command)
        if done.code:
            raise provisioning_error(done.err, "correct project.yml")
        return kits_of(done.out)


def provisioning_error(said: str, otherwise: str) -> ConsoleError:
    """What `provisioning.provision` complained of, without Compose's progress before it.

    Args:
        said: on stderr.
        otherwise: the next step, where it names none.
    """
    problem, _, advice = said_by("provision", said).partition("\n  next: ")
    return ConsoleError("provision", problem[-2000:], advice or otherwise)


def said_by(name: str, said: str) -> str:
    """What a one-shot said, without its own name before it and without Compose's progress."""
    begin = said.find(f"{name}: ")
    lines = (said[begin + len(name) + 2 :] if begin >= 0 else complaint(said)).strip().splitlines()[-15:]
    return "\n".join(clean(line) if line.strip() == line else f"  {clean(line)}" for line in lines)


def complaint(said: str) -> str:
    """What Compose complained of, without its progress."""
    lines = [clean(line) for line in said.splitlines() if line.strip()]
    return "\n".join(dict.fromkeys([line for line in lines if not PROGRESS.match(line)] or lines))[-2000:]


def kits_of(said: str) -> list[str]:
    """The services that got a new kit, from what `provisioning.provision` said."""
    line = next((line for line in said.splitlines() if line.startswith(NEW_KITS)), NEW_KITS)
    return sorted("admin" if "@" in name else name for name in line[len(NEW_KITS) :].split(", ") if name)
