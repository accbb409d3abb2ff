"""`make up`: images, startup kits, data, containers, until NVFlare reports every site registered."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multisite.console import images, report
from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError, Settings

START_SECONDS = 900.0
REGISTER_SECONDS = 120.0
WAIT_SLICE_SECONDS = 20.0
IMAGE_GIB, RUN_GIB = 12, 1
MOST_AT_ONCE = 8
CLIENT_STREAM = "docker/client-stream.yaml"
GPU = "docker/gpu.yaml"
ONE_SHOTS = ("provision", "data")
CA = "docker/ca.yaml"
NEW_KITS = "new kits: "  # as `federation.provision` says it


@dataclass
class Deployment:
    """The deployment of one project folder."""

    settings: Settings
    docker: Docker
    _described: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path) -> Deployment:
        """The deployment in `home`, with its settings."""
        settings = Settings.load(home)
        return cls(settings, Docker(home))

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
        standing = self.preflight()
        self.stage_key()
        self.configure(self.streams_from_clients if client_stream is None else client_stream)
        images.build(self.settings, self.docker)
        self.start()
        if standing:
            self.renew(standing)
        with ThreadPoolExecutor() as pool:  # the sites tell what they hold while they register
            pool.submit(self.describe, self.docker.local_sites())
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
        there = {entry["Service"]: entry for entry in self.docker.services()} if wanted else {}
        if not wanted or set(there) != set(wanted):
            return False
        for service, entry in there.items():
            ended = service in ONE_SHOTS and entry["State"] == "exited" and str(entry["ExitCode"]) == "0"
            same = f"com.docker.compose.config-hash={wanted[service]}" in entry["Labels"].split(",")
            named = entry["Image"].startswith("multisite-")  # an image that was built again leaves a bare id here
            if not (ended or entry["State"] == "running") or not same or not named:
                return False
        finished = self.docker.run(["inspect", "--format", "{{.State.FinishedAt}}", there["provision"]["ID"]]).out
        provisioned = datetime.fromisoformat(finished[:19]).replace(tzinfo=UTC).timestamp()
        return (self.settings.home / "project.yml").stat().st_mtime < provisioned

    def preflight(self) -> list[str]:
        """What can fail is checked before anything changes: the engine, disk space, the port.

        Returns:
            The services that run already.
        """
        environment = {**os.environ, "INSTALL_ENGINE": self.settings.get("INSTALL_ENGINE", "yes")}
        if subprocess.run(["docker/engine.sh", "ensure"], cwd=self.settings.home, env=environment, check=False).returncode:
            raise SystemExit(1)  # it has said why
        self._check_disk()
        standing = [entry["Service"] for entry in self.docker.services() if entry["State"] == "running"]
        if "server" not in standing:
            self._check_port()
        return standing

    def _check_disk(self) -> None:
        root = self.docker.run(["info", "--format", "{{.DockerRootDir}}"]).out.strip()
        if not os.path.isdir(root):
            return  # the engine's disk is another machine's
        needed = RUN_GIB if images.exists(self.settings, self.docker) else IMAGE_GIB
        free = shutil.disk_usage(root).free / 2**30
        if free < needed:
            raise ConsoleError("disk", f"{free:.1f} GiB free in {root}, {needed} GiB needed", "free space: docker system prune")

    def _check_port(self) -> None:
        address, port = self.settings.address, self.settings.port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise ConsoleError(
                    "port",
                    f"{address}:{port} can't be used ({error.strerror})",
                    "end what listens there (ss -ltnp), or set SERVER_PORT or BIND_ADDRESS in .env",
                ) from None

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
        if self._wants_gpus():
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

    def _wants_gpus(self) -> bool:
        wish = self.settings.get("GPUS", "auto")
        if wish == "none":
            return False
        driver = (
            shutil.which("nvidia-smi") is not None
            and not subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False).returncode
        )
        runtime = "nvidia" in self.docker.run(["info", "--format", "{{json .Runtimes}}"]).out
        if wish == "all" and not (driver and runtime):
            missing = "the NVIDIA driver (nvidia-smi)" if not driver else "Docker's NVIDIA runtime"
            raise ConsoleError(
                "GPUs", f"GPUS=all, but {missing} does not answer", "install the NVIDIA Container Toolkit, or GPUS=none"
            )
        return driver and runtime

    def start(self) -> None:
        """Starts the containers; Compose runs the one-shots first."""
        result = self.docker.compose("up", "--detach", "--remove-orphans", "--quiet-pull", seconds=START_SECONDS)
        if not result.code:
            return
        for step in ONE_SHOTS:
            failed = [
                entry for entry in self.docker.services() if entry["Service"] == step and str(entry.get("ExitCode", 0)) != "0"
            ]
            if failed:
                log = self.docker.compose("logs", "--no-log-prefix", "--tail", "15", step).out.strip()
                problem, _, advice = log.removeprefix(f"{step}: ").partition("\n  next: ")
                raise ConsoleError(step, problem, advice or f"docker compose logs {step}")
        raise ConsoleError("containers", result.err.strip()[-2000:], "docker compose ps --all; docker compose logs")

    def renew(self, standing: list[str]) -> None:
        """Restarts the participants that ran on while they were given a new kit: by themselves they would, seconds after `make up`."""
        said = self.docker.compose("logs", "--no-log-prefix", "--tail", "1", "provision").out.strip()
        names = said.removeprefix(NEW_KITS).split(", ") if said.startswith(NEW_KITS) else []
        stale = sorted({"admin" if "@" in name else name for name in names} & set(standing))
        if stale:
            self.docker.compose_or_fail("new kits", "docker compose ps --all", "restart", *stale)

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
            failing = [entry["Service"] for entry in self.docker.services() if entry["State"] == "restarting"]
            if failing or time.monotonic() > deadline:
                culprit = (failing or missing)[0]
                why = "its container keeps failing" if failing else f"not registered after {REGISTER_SECONDS:.0f} s"
                log = self.docker.compose("logs", "--no-log-prefix", "--tail", "5", culprit).out.strip()
                raise ConsoleError("registration", f"{culprit}: {why}; its last lines:\n{log}", f"docker compose logs {culprit}")

    def admin(self, *arguments: str, seconds: float = 120.0) -> list[dict[str, Any]]:
        """Runs one command of `console.admin` in the admin container and returns its lines."""
        result = self.docker.compose("exec", "-T", "admin", "python", "-m", "multisite.console.admin", *arguments, seconds=seconds)
        lines = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
        if not lines:
            lines = [{"event": "error", "message": (result.err.strip().splitlines() or ["no answer"])[-1]}]
        return lines

    def table(self, registered: list[str]) -> str:
        """Participant, state, address, device, examples: the answer of `make up`."""
        services = {entry["Service"]: entry for entry in self.docker.services()}
        rows: list[tuple[str, str, str, str, str]] = []
        if "server" in services:
            published = f"{self.settings.address}:{self.settings.port}"
            rows.append(("server", services["server"]["State"], published, "-", "-"))
        sites = sorted({*registered, *self.docker.local_sites()})
        said = self.describe([site for site in sites if site in services])
        for site in sites:
            if site not in services:
                rows.append((site, "registered", "another host", "-", "-"))
                continue
            told = said[site]
            shards = told.get("shards", {})
            shown = ", ".join(f"{shard['examples']} ({_dataset(shard['dataset'])}, {name})" for name, shard in shards.items())
            state = "registered" if site in registered else services[site]["State"]
            rows.append((site, state, f"network {site}", told.get("device", "-"), shown or "none"))
        if "admin" in services:
            rows.append(("admin", services["admin"]["State"], "network admin", "-", "-"))
        return report.table(("participant", "state", "address", "device", "examples in its shard"), rows)

    def project(self) -> str:
        """Compose's name of the deployment."""
        out = self.docker.compose_or_fail("settings", "correct compose.yaml or .env", "config", "--format", "json")
        return str(json.loads(out)["name"])

    def dataset(self, alpha: float | None, seed: int) -> str:
        """What the local sites' shards of one partition hold: `cifar10`, or `synthetic` if any of them does."""
        held = {
            shard["dataset"]
            for told in self.describe(self.docker.local_sites()).values()
            for shard in told.get("shards", {}).values()
            if (shard["alpha"], shard["seed"]) == (alpha, seed)
        }
        return "synthetic" if "synthetic" in held else "cifar10"

    def describe(self, sites: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What local sites say of themselves: device, and examples by partition. Each is asked once, all at the same time."""

        def ask(site: str) -> dict[str, Any]:
            result = self.docker.compose("exec", "-T", site, "python", "-m", "multisite.federation.describe")
            return dict(json.loads(result.out)) if result.code == 0 and result.out.startswith("{") else {}

        unknown = [site for site in sites if site not in self._described]
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            self._described.update((site, told) for site, told in zip(unknown, pool.map(ask, unknown), strict=True) if told)
        return {site: self._described.get(site, {}) for site in sites}


def _dataset(name: str) -> str:
    return "SYNTHETIC DATA" if name == "synthetic" else name
