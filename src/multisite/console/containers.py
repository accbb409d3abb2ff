"""The deployment's containers: which of them would change, the one-shots first, then whoever has to be made anew."""

from __future__ import annotations

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from multisite.console.docker import Container, Docker
from multisite.console.settings import ConsoleError
from multisite.console.text import say
from multisite.text import clean

START_SECONDS = 900.0
MOST_AT_ONCE = 4
ONE_SHOTS = ("data", "provision")
PROVISION = ("python", "-m", "multisite.provisioning.provision")
IMAGE_ID = re.compile("sha256:.*|[0-9a-f]{12,64}")
PROGRESS = re.compile("(Container|Network|Volume|Image|Pod) \\S+ ")
NEW_KITS, NONE_NEW = "new kits: ", "kits are up to date"  # as `provisioning.provision` says it, in its last line


@dataclass
class Containers:
    """What `make up` does with containers, after everything that can be checked was."""

    docker: Docker

    def wanted(self) -> dict[str, str]:
        """Service -> hash of its configuration, of every service in the compose files.

        Raises:
            ConsoleError: Compose can't read them.
        """
        hashes = self.docker.compose("config", "--hash", "*")
        if hashes.code:
            raise ConsoleError(
                "compose files", hashes.err.strip()[-2000:], "correct COMPOSE_EXTRA or the settings in .env; docker compose config"
            )
        return dict(line.split() for line in hashes.out.splitlines())

    def outdated(self) -> list[str]:
        """The services whose container runs and would be made anew, or removed."""
        wanted = self.wanted()
        return sorted(
            name for name, there in self.docker.containers().items() if there.state == "running" and not as_wanted(there, wanted)
        )

    def prepare(self, standing: list[str]) -> None:
        """Runs the one-shots, while whatever else runs is left as it is, and says whose kit is new and who has to be brought one.

        Args:
            standing: the services that run. They use what provisioning writes, so it comes last then; else both run at once.

        Raises:
            ConsoleError: one of them failed.
        """
        made = self.docker.compose("up", "--no-start", "--no-deps", "--quiet-pull", *ONE_SHOTS, seconds=START_SECONDS)
        if made.code:
            raise ConsoleError(
                "containers",
                complaint(made.err),
                "correct the setting in .env that it names, or COMPOSE_EXTRA's file; nothing that ran was touched",
            )
        there = self.docker.containers()
        one_shots = [there[name] for name in ONE_SHOTS]
        said = [self._run(container) for container in one_shots] if standing else self._run_at_once(one_shots)
        for line in said[ONE_SHOTS.index("provision")].splitlines():
            if line != NONE_NEW:
                say(clean(line))

    def _run_at_once(self, one_shots: list[Container]) -> list[str]:
        with ThreadPoolExecutor(len(one_shots)) as pool:
            runs = [pool.submit(self._run, container) for container in one_shots]
            try:
                for end in as_completed(runs):
                    end.result()
            except ConsoleError:
                self.docker.run(["stop", "-t", "1", *(container.id for container in one_shots)])
                raise
            return [run.result() for run in runs]

    def start(self) -> None:
        """Makes the containers anew that are not as the compose files say, and starts the server, then whoever connects to it.

        `docker compose up` would start one after the other, and look every half second whether a one-shot has ended.

        Raises:
            ConsoleError: a container can't be made or started.
        """
        self._make()
        idle = self._idle()
        if "server" in idle:  # before who connects to it: a name that isn't there yet costs them seconds
            self._run(idle.pop("server"))
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            list(pool.map(self._run, idle.values()))

    def _make(self) -> None:
        made = self.docker.compose("up", "--no-start", "--remove-orphans", "--quiet-pull", seconds=START_SECONDS)
        if made.code:
            raise ConsoleError("containers", complaint(made.err), "docker compose ps --all; docker compose logs")

    def _idle(self) -> dict[str, Container]:
        there = self.docker.containers()
        return {name: container for name, container in there.items() if container.state != "running" and name not in ONE_SHOTS}

    def restore(self) -> None:
        """After a failed start, with the compose files of before: what ran before runs again, as far as it can."""
        with contextlib.suppress(ConsoleError):
            self._make()
        for _, container in sorted(self._idle().items(), key=lambda item: item[0] != "server"):
            with contextlib.suppress(ConsoleError):
                self._run(container)

    def _run(self, container: Container) -> str:
        """Starts a container, and waits for the end of a one-shot, whose output is returned."""
        name = container.service
        attach = ["--attach"] if name in ONE_SHOTS else []
        result = self.docker.run(["start", *attach, container.id], seconds=START_SECONDS)
        if result.code:
            said = [
                clean(line) if line.strip() == line else f"  {clean(line)}"
                for line in (result.out + result.err).strip().splitlines()[-15:]
            ]
            words, _, advice = "\n".join(said).partition("\n  next: ")
            problem = words[len(name) + 2 :] if words.startswith(f"{name}: ") else words
            raise ConsoleError(name, problem, advice or f"docker compose logs {name}")
        return result.out

    def renew(self, standing: list[str]) -> None:
        """Restarts the participants that ran on while they were given a new kit: by themselves they would, seconds after `make up`."""
        said = self.docker.compose("logs", "--no-log-prefix", "--tail", "1", "provision").out.strip()
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
    problem, _, advice = said[max(0, said.find("provision: ")) :].strip().partition("\n  next: ")
    return ConsoleError("provision", problem.split(": ", 1)[-1][-2000:], advice or otherwise)


def complaint(said: str) -> str:
    """What Compose complained of, without its progress."""
    lines = [clean(line) for line in said.splitlines() if line.strip()]
    return "\n".join(dict.fromkeys([line for line in lines if not PROGRESS.match(line)] or lines))[-2000:]


def as_wanted(container: Container, wanted: dict[str, str]) -> bool:
    """Whether a container is made from the image and the configuration that it is to have."""
    rebuilt = IMAGE_ID.fullmatch(container.image)  # an image that was built again leaves a bare id here
    return not rebuilt and container.config_hash == wanted.get(container.service)


def kits_of(said: str) -> list[str]:
    """The services that got a new kit, from what `provisioning.provision` said."""
    line = next((line for line in said.splitlines() if line.startswith(NEW_KITS)), NEW_KITS)
    return sorted("admin" if "@" in name else name for name in line[len(NEW_KITS) :].split(", ") if name)
