"""`make up`: images, startup kits, data, containers, until NVFlare reports every site registered."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from multisite.console import admin, api_key, images, preflight, report, running_jobs
from multisite.console.containers import Containers
from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError, Settings
from multisite.console.text import quoted, say
from multisite.job.options import UNKNOWN

REGISTER_SECONDS = 120.0
WAIT_SLICE_SECONDS = 20.0
STAGED_KEY = "./secrets/.mounted/wandb_api_key"
CLIENT_STREAM = "docker/client-stream.yaml"
GPU = "docker/gpu.yaml"
CA = "docker/ca.yaml"


@dataclass
class Deployment:
    """The deployment of one project folder."""

    settings: Settings
    docker: Docker

    @classmethod
    def load(cls, home: Path) -> Deployment:
        """The deployment in `home`, with its settings."""
        settings = Settings.load(home)
        return cls(settings, Docker(home, settings.project))

    @property
    def containers(self) -> Containers:
        """Its containers, as the compose files that are chosen now want them."""
        return Containers(self.docker)

    @property
    def streams_from_clients(self) -> bool:
        """Whether the key is with the sites, by what was last written to `.env`."""
        return CLIENT_STREAM in self.settings.get("COMPOSE_FILE")

    def up(self, client_stream: bool | None = None) -> dict[str, Any]:
        """Brings the deployment up; a second call changes nothing.

        Args:
            client_stream: move the key to the sites (True) or to the server (False); None keeps it where it is.

        Returns:
            The registered sites, by NVFlare, see `admin.commands.wait`.

        Raises:
            ConsoleError: a step failed; it says which, why and what to do.
        """
        before = self.streams_from_clients
        standing = preflight.check(self.settings, self.docker)
        self.stage_key()
        managed = self.configure(before if client_stream is None else client_stream)
        managed |= images.build(self.settings, self.docker)
        if standing:
            moved_to = "" if client_stream in (None, before) else "the sites" if client_stream else "the server"
            running_jobs.spare(self.docker, standing, moved_to)
        said = self.containers.prepare()
        try:
            self.containers.start()
        except ConsoleError:
            if standing:
                self.configure(before)
                with contextlib.suppress(ConsoleError):
                    self.containers.start()
            raise
        self.settings.remember(managed)
        self.containers.renew(said, standing)
        return self.wait()

    @cached_property
    def key(self) -> str:
        """The W&B key, see `api_key.choose`; empty if there is none. What has to be said about it is said once."""
        key, note = api_key.choose(self.settings)
        if note:
            say(note)
        return key

    def stage_key(self) -> None:
        """Copies the key to the file that Compose mounts: in place, so that running containers see a new key.

        The copy is readable for the container's user, in a folder that only the host's user enters.
        """
        staged, key = self.settings.home / STAGED_KEY, self.key
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.parents[1].chmod(stat.S_IRWXU)
        if not staged.exists() or staged.read_text(encoding="utf-8") != key:
            if staged.exists():
                staged.chmod(0o600)
            staged.write_text(key, encoding="utf-8")
        staged.chmod(0o444)

    def configure(self, client_stream: bool) -> dict[str, str]:
        """Chooses the compose files, for every command from here on.

        Returns:
            What plain `docker compose` needs in `.env`, once the containers are made from it.
        """
        files = ["compose.yaml"]
        if client_stream:
            files.append(CLIENT_STREAM)
        if preflight.wants_gpus(self.settings, self.docker):
            files.append(GPU)
        if self.settings.path("CA_BUNDLE"):
            files.append(CA)
        files += [name for name in self.settings.get("COMPOSE_EXTRA").split(":") if name]
        threads = self.settings.get("SITE_THREADS") or str(max(1, (os.cpu_count() or 2) // 2))
        managed = {"COMPOSE_FILE": ":".join(files), "SITE_THREADS_DEFAULT": threads, "WANDB_KEY_STAGED": STAGED_KEY}
        self.docker.environment.update(managed)
        for name in ("CIFAR10_DIR", "CA_BUNDLE"):
            if path := self.settings.path(name):
                self.docker.environment[name] = str(path)
        return managed

    def wait(self) -> dict[str, Any]:
        """Waits until NVFlare reports every local site registered.

        Raises:
            ConsoleError: one is not after REGISTER_SECONDS, or its container keeps failing.
        """
        sites = self.docker.local_sites()
        deadline = time.monotonic() + REGISTER_SECONDS
        while True:
            lines = self.admin("wait", "--sites", ",".join(sites), "--timeout", str(WAIT_SLICE_SECONDS), seconds=120)
            answer = next((line for line in lines if line["event"] == "sites"), None)
            failing = [name for name, container in self.docker.containers().items() if container.state == "restarting"]
            if answer and not answer["missing"] and not failing:
                return answer
            missing = answer["missing"] if answer else ["server"]
            if failing or time.monotonic() > deadline:
                culprit = (failing or missing)[0]
                why = "its container keeps failing" if failing else f"not registered after {REGISTER_SECONDS:.0f} s"
                log = quoted(self.docker.compose("logs", "--no-log-prefix", "--tail", "5", culprit).out)
                raise ConsoleError("registration", f"{culprit}: {why}; its last lines:\n{log}", f"docker compose logs {culprit}")

    def admin(self, *arguments: str, seconds: float = 120.0) -> list[dict[str, Any]]:
        """Runs one command of `admin.command_line` in the admin container and returns its lines."""
        return admin.ask(self.docker, *arguments, seconds=seconds)

    def table(self, answer: dict[str, Any]) -> str:
        """Participant, state, address, device, examples: the answer of `make up`.

        Args:
            answer: what `wait` returned, with `registered` and `resources`.
        """
        there = self.docker.containers()
        rows: list[tuple[str, str, str, str, str]] = []
        if "server" in there:
            rows.append(("server", there["server"].state, f"{self.settings.address}:{self.settings.port}", "-", "-"))
        for site in sorted({*answer["registered"], *(name for name in there if name.startswith("site-"))}):
            offered = answer["resources"].get(site, {})
            shards = _shards(offered).items()
            shown = ", ".join(f"{shard.get('examples')} ({_dataset(shard.get('dataset'))}, {name})" for name, shard in shards)
            state = "registered" if site in answer["registered"] else there[site].state
            address = f"network {site}" if site in there else "another host"
            rows.append((site, state, address, offered.get("device", "-"), shown or ("none" if offered and site in there else "-")))
        if "admin" in there:
            rows.append(("admin", there["admin"].state, "network admin", "-", "-"))
        return report.table(("participant", "state", "address", "device", "examples in its shard"), rows)


def dataset(resources: dict[str, dict[str, Any]], sites: Sequence[str], alpha: float | None, seed: int) -> str:
    """What the job's sites hold of one partition.

    Args:
        resources: what each site has to offer, see `node/resources.py`; a site that has not answered is missing.
        sites: the job's.
        alpha, seed: the partition's.

    Returns:
        `synthetic` if any of the shards is; `cifar10` if every site has said so; else `unknown`.
    """
    held = [
        {
            str(shard.get("dataset"))
            for shard in _shards(resources.get(site, {})).values()
            if (shard.get("alpha"), shard.get("seed")) == (alpha, seed)
        }
        for site in sites
    ]
    if any("synthetic" in names for names in held):
        return "synthetic"
    return "cifar10" if held and all(names == {"cifar10"} for names in held) else UNKNOWN


def _shards(offered: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A site's shards, without what is none: it may send what it likes."""
    shards = offered.get("shards")
    return {name: shard for name, shard in shards.items() if isinstance(shard, dict)} if isinstance(shards, dict) else {}


def _dataset(name: object) -> str:
    return "SYNTHETIC DATA" if name == "synthetic" else str(name)
