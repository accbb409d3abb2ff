"""`make up`: images, startup kits, data, containers, until NVFlare reports every site registered."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multisite.console import images, preflight, report
from multisite.console.docker import Container, Docker
from multisite.console.settings import ConsoleError, Settings

START_SECONDS = 900.0
REGISTER_SECONDS = 120.0
WAIT_SLICE_SECONDS = 20.0
MOST_AT_ONCE = 4
CLIENT_STREAM = "docker/client-stream.yaml"
GPU = "docker/gpu.yaml"
ONE_SHOTS = ("provision", "data")
ADMIN = ("python", "-m", "multisite.console.admin")
CA = "docker/ca.yaml"
NEW_KITS = "new kits: "  # as `federation.provision` says it


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
    def streams_from_clients(self) -> bool:
        """Whether the key is with the sites, by what was last written to `.env`."""
        return CLIENT_STREAM in self.settings.get("COMPOSE_FILE")

    def up(self, client_stream: bool | None = None) -> dict[str, Any]:
        """Brings the deployment up; a second call changes nothing.

        Args:
            client_stream: move the key to the sites (True) or to the server (False); None keeps it where it is.

        Returns:
            NVFlare's word on the sites, see `console.admin_commands.wait`.

        Raises:
            ConsoleError: a step failed; it says which, why and what to do.
        """
        standing = preflight.check(self.settings, self.docker)
        self.stage_key()
        self.configure(self.streams_from_clients if client_stream is None else client_stream)
        images.build(self.settings, self.docker)
        self.start()
        if standing:
            self.renew(standing)
        return self.wait()

    def ensure_up(self, client_stream: bool) -> dict[str, Any]:
        """As `up`, which it leaves out where it would change nothing: two seconds of every `make submit`."""
        if shutil.which("docker") is not None:
            self.stage_key()
            self.configure(client_stream)
            if not images.stale_targets(self.settings, self.docker) and self.is_up():
                return self.wait()
        return self.up(client_stream)

    def is_up(self) -> bool:
        """Whether every container is what the compose files, the settings, the images and project.yml say."""
        hashes = self.docker.compose("config", "--hash", "*")
        wanted = dict(line.split() for line in hashes.out.splitlines()) if not hashes.code else {}
        there = self.docker.containers() if wanted else {}
        if not wanted or set(there) != set(wanted):
            return False
        for service, container in there.items():
            ended = service in ONE_SHOTS and container.exit_code == 0
            same = container.config_hash == wanted[service]
            named = container.image.startswith("multisite-")  # an image that was built again leaves a bare id here
            if not (ended or container.state == "running") or not same or not named:
                return False
        finished = self.docker.run(["inspect", "--format", "{{.State.FinishedAt}}", there["provision"].id]).out
        provisioned = datetime.fromisoformat(finished[:19]).replace(tzinfo=UTC).timestamp()
        return (self.settings.home / "project.yml").stat().st_mtime < provisioned

    def stage_key(self) -> None:
        """Copies the key to the file that Compose mounts: in place, so that running containers see a new key.

        The copy is readable for the container's user, in a folder that only the host's user enters.
        """
        folder = self.settings.home / "secrets" / ".mounted"
        folder.mkdir(parents=True, exist_ok=True)
        folder.parent.chmod(stat.S_IRWXU)
        staged, source = folder / "wandb_api_key", self.settings.key_file
        try:
            key = source.read_text(encoding="utf-8").strip() if source.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConsoleError(
                "W&B key", f"{source} can't be read ({type(error).__name__})", "correct the file, or WANDB_KEY_FILE"
            ) from None
        if self.settings.get("WANDB_KEY_FILE") and not source.exists():
            raise ConsoleError("W&B key", f"WANDB_KEY_FILE={source} does not exist", "correct it, or leave it empty to go without")
        if not staged.exists() or staged.read_text(encoding="utf-8") != key:
            if staged.exists():
                staged.chmod(0o600)
            staged.write_text(key, encoding="utf-8")
        staged.chmod(0o444)

    def configure(self, client_stream: bool) -> None:
        """Chooses the compose files and writes them where plain `docker compose` finds them."""
        files = ["compose.yaml"]
        if client_stream:
            files.append(CLIENT_STREAM)
        if preflight.wants_gpus(self.settings, self.docker):
            files.append(GPU)
        if self.settings.path("CA_BUNDLE"):
            files.append(CA)
        files += [name for name in self.settings.get("COMPOSE_EXTRA").split(":") if name]
        threads = self.settings.get("SITE_THREADS") or str(max(1, (os.cpu_count() or 2) // 2))
        managed = {"COMPOSE_FILE": ":".join(files), "SITE_THREADS": threads}
        self.settings.remember(managed)
        self.docker.environment.update(managed)
        for name in ("CIFAR10_DIR", "CA_BUNDLE"):
            if path := self.settings.path(name):
                self.docker.environment[name] = str(path)

    def start(self) -> None:
        """Makes the containers and starts them in the order of compose.yaml: the one-shots, the server, whoever connects to it.

        `docker compose up` would start one after the other, and look every half second whether a one-shot has ended.

        Raises:
            ConsoleError: a container can't be made or started, or a one-shot failed.
        """
        made = self.docker.compose("up", "--no-start", "--remove-orphans", "--quiet-pull", seconds=START_SECONDS)
        if made.code:
            raise ConsoleError("containers", made.err.strip()[-2000:], "docker compose ps --all; docker compose logs")
        idle = {name: container for name, container in self.docker.containers().items() if container.state != "running"}
        one_shots = {name: idle.pop(name) for name in ONE_SHOTS if name in idle}
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            ends = {name: pool.submit(self._start_one, container) for name, container in one_shots.items()}
            try:
                if "provision" in ends:
                    ends["provision"].result()
                if "server" in idle:  # before who connects to it: a name that isn't there yet costs them seconds
                    self._start_one(idle.pop("server"))
                if "data" in ends:
                    ends["data"].result()
            except ConsoleError:
                self.docker.run(["stop", "-t", "1", *(container.id for container in one_shots.values())])
                raise
            list(pool.map(self._start_one, idle.values()))

    def _start_one(self, container: Container) -> None:
        """Starts a container, and waits for the end of a one-shot."""
        name = container.service
        attach = ["--attach"] if name in ONE_SHOTS else []
        result = self.docker.run(["start", *attach, container.id], seconds=START_SECONDS)
        if result.code:
            said = (result.out + result.err).strip().splitlines()[-15:]
            problem, _, advice = "\n".join(said).removeprefix(f"{name}: ").partition("\n  next: ")
            raise ConsoleError(name, problem, advice or f"docker compose logs {name}")

    def renew(self, standing: list[str]) -> None:
        """Restarts the participants that ran on while they were given a new kit: by themselves they would, seconds after `make up`."""
        said = self.docker.compose("logs", "--no-log-prefix", "--tail", "1", "provision").out.strip()
        names = said.removeprefix(NEW_KITS).split(", ") if said.startswith(NEW_KITS) else []
        stale = sorted({"admin" if "@" in name else name for name in names} & set(standing))
        if stale:
            self.docker.run_or_fail("new kits", "docker compose ps --all", "compose", "restart", *stale)

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
            if answer and not answer["missing"]:
                return answer
            missing = answer["missing"] if answer else ["server"]
            failing = [name for name, container in self.docker.containers().items() if container.state == "restarting"]
            if failing or time.monotonic() > deadline:
                culprit = (failing or missing)[0]
                why = "its container keeps failing" if failing else f"not registered after {REGISTER_SECONDS:.0f} s"
                log = self.docker.compose("logs", "--no-log-prefix", "--tail", "5", culprit).out.strip()
                raise ConsoleError("registration", f"{culprit}: {why}; its last lines:\n{log}", f"docker compose logs {culprit}")

    def admin(self, *arguments: str, seconds: float = 120.0) -> list[dict[str, Any]]:
        """Runs one command of `console.admin` in the admin container and returns its lines."""
        result = self.docker.exec("admin", *ADMIN, *arguments, seconds=seconds)
        lines = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
        if not lines:
            lines = [{"event": "error", "message": (result.err.strip().splitlines() or ["no answer"])[-1]}]
        return lines

    def table(self, answer: dict[str, Any]) -> str:
        """Participant, state, address, device, examples: the answer of `make up`.

        Args:
            answer: NVFlare's word on the sites, with `registered` and `resources`.
        """
        there = self.docker.containers()
        rows: list[tuple[str, str, str, str, str]] = []
        if "server" in there:
            rows.append(("server", there["server"].state, f"{self.settings.address}:{self.settings.port}", "-", "-"))
        for site in sorted({*answer["registered"], *(name for name in there if name.startswith("site-"))}):
            told = answer["resources"].get(site, {})
            shards = told.get("shards", {})
            shown = ", ".join(f"{shard['examples']} ({_dataset(shard['dataset'])}, {name})" for name, shard in shards.items())
            state = "registered" if site in answer["registered"] else there[site].state
            address = f"network {site}" if site in there else "another host"
            rows.append((site, state, address, told.get("device", "-"), shown or ("none" if told and site in there else "-")))
        if "admin" in there:
            rows.append(("admin", there["admin"].state, "network admin", "-", "-"))
        return report.table(("participant", "state", "address", "device", "examples in its shard"), rows)


def dataset(resources: dict[str, dict[str, Any]], alpha: float | None, seed: int) -> str:
    """What the sites' shards of one partition hold: `cifar10`, or `synthetic` if any of them does.

    Args:
        resources: what each site has to offer, as `federation.resources` tells it.
        alpha: the partition's.
        seed: the partition's.
    """
    held = {
        shard["dataset"]
        for told in resources.values()
        for shard in told.get("shards", {}).values()
        if (shard["alpha"], shard["seed"]) == (alpha, seed)
    }
    return "synthetic" if "synthetic" in held else "cifar10"


def _dataset(name: str) -> str:
    return "SYNTHETIC DATA" if name == "synthetic" else name
