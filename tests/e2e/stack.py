"""A deployment of its own for the e2e tests: a copy of the project in another folder, with its own name, port and settings."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multisite.console import names
from tests.wandb_backend.client import BackendState

PROJECT = Path(__file__).resolve().parents[2]
COPIED = ("Makefile", "compose.yaml", "project.yml", "docker", "jobs", "src", ".env.example", ".dockerignore")
KEY = "e2e0key0" * 5
WRONG_KEY = "wrong0key" * 5
COMMAND_SECONDS = 600.0
POLL_SECONDS = 0.5
# What every submit of the tests is, unless a test says otherwise: small, and real CIFAR-10 where there is a copy.
SMALL = {"ROUNDS": "2", "BATCH_SIZE": "64"}
LIMIT = "1500"


@dataclass
class Done:
    """What a command gave: exit status, both outputs together, seconds."""

    code: int
    text: str
    seconds: float


@dataclass
class Stack:
    """One deployment under test."""

    home: Path
    name: str
    port: int
    transcript: Path
    settings: dict[str, str] = field(default_factory=dict)
    project: Path = PROJECT  # what is copied: a checkout of this project

    def create(self) -> None:
        """Copies the project and writes its settings and the key."""
        for name in COPIED:
            source = self.project / name
            target = self.home / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
                shutil.copymode(source, target)
        cifar10 = os.environ.get("CIFAR10_DIR", "")
        self.settings = {
            "COMPOSE_PROJECT_NAME": self.name,
            "SERVER_PORT": str(self.port),
            "CIFAR10_DIR": cifar10,
            "DATA_LIMIT": LIMIT,
            "DATASET": "auto" if cifar10 else "synthetic",
            "WANDB_BASE_URL": "http://wandb-backend:8970",
            "WANDB_TRANSMIT_SECONDS": "1",
            "COMPOSE_EXTRA": str(PROJECT / "tests" / "e2e" / "backend.yaml"),
            "BACKEND_KEYS": f"{KEY}=hospital",
            "BACKEND_SOURCE": str(PROJECT / "tests" / "wandb_backend"),
            **{name: os.environ[name] for name in ("NVFLARE", "PATCHES") if os.environ.get(name)},  # as docker/test.sh gives them
            **self.settings,
        }
        (self.home / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()), encoding="utf-8")
        self.write_key(KEY)

    def write_key(self, key: str | None) -> None:
        """Sets the user's W&B key file; None removes it."""
        path = self.home / "secrets" / "wandb_api_key"
        path.parent.mkdir(exist_ok=True)
        if key is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(key + "\n", encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """Of every command: the settings are in .env, so none of them may come from the test's own environment."""
        hidden = {
            *self.settings,
            "COMPOSE_FILE",
            "SITE_THREADS",
            "SITE_THREADS_DEFAULT",
            "MULTISITE_HOME",
            "WANDB_API_KEY",
            "WANDB_KEY_FILE",
            "MAKEFLAGS",
            "MFLAGS",
            "MAKELEVEL",
            *names.COMMON,
        }
        return {name: value for name, value in os.environ.items() if name not in hidden}

    def run(self, *command: str, seconds: float = COMMAND_SECONDS, **variables: str) -> Done:
        """Runs a command in the deployment's folder, as a person would; everything goes to the transcript."""
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=self.home, env={**self.environment(), **variables}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        result = Done(done.returncode, done.stdout, time.monotonic() - started)
        with self.transcript.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}  {variables or ''}\n{done.stdout}[exit {result.code}, {result.seconds:.1f} s]\n\n")
        return result

    def make(self, verb: str, seconds: float = COMMAND_SECONDS, **variables: str) -> Done:
        """Runs `make VERB NAME=value ...`."""
        return self.run(
            "make", "--no-print-directory", verb, *(f"{name}={value}" for name, value in variables.items()), seconds=seconds
        )

    def submit(self, verb: str = "submit", **variables: str) -> Done:
        """Runs a small job."""
        return self.make(verb, **{**SMALL, **variables})

    def start(self, verb: str = "submit", **variables: str) -> subprocess.Popen[str]:
        """Starts a job and returns at once."""
        arguments = [f"{name}={value}" for name, value in {**SMALL, **variables}.items()]
        return subprocess.Popen(
            ["make", "--no-print-directory", verb, *arguments], cwd=self.home, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def compose(self, *arguments: str, seconds: float = 120.0) -> Done:
        """`docker compose` with no flags, typed in the deployment's folder."""
        return self.run("docker", "compose", *arguments, seconds=seconds)

    def stage(self) -> None:
        """What Compose wants to find before `make up` has run: the staged key."""
        staged = self.home / "secrets" / ".mounted" / "wandb_api_key"
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.touch()

    @staticmethod
    def parse(text: str) -> dict[str, Any]:
        """JSON, as a Compose command prints it."""
        return dict(json.loads(text))

    def execute(self, service: str, *command: str) -> Done:
        """A command in a running container."""
        return self.compose("exec", "-T", service, *command)

    def containers(self) -> dict[str, str]:
        """Service -> container id, of what runs."""
        rows = [json.loads(line) for line in self.compose("ps", "--format", "json").text.splitlines() if line.startswith("{")]
        return {row["Service"]: row["ID"] for row in rows if row["State"] == "running"}

    def inspect(self, container: str) -> dict[str, Any]:
        """`docker inspect` of one container."""
        return dict(json.loads(self.run("docker", "inspect", container).text)[0])

    def addresses(self, service: str, network: str = "") -> set[str]:
        """The addresses of a running service; or the one on the network of that name in compose.yaml."""
        networks = self.inspect(self.containers()[service])["NetworkSettings"]["Networks"]
        return {there["IPAddress"] for name, there in networks.items() if not network or name == f"{self.name}_{network}"}

    def backend_url(self) -> str:
        """Where the stand-in backend answers on this machine."""
        return "http://" + self.compose("port", "wandb-backend", "8970").text.strip()

    def backend(self) -> BackendState:
        """Everything that the stand-in backend has recorded."""
        return BackendState.fetch(self.backend_url())

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
        """Polls until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
            time.sleep(POLL_SECONDS)

    def destroy(self) -> None:
        """Removes containers, networks, volumes and images."""
        self.make("clean", WHAT="all", seconds=180)


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def switch(stack: Stack, clients: bool) -> None:
    """Brings the deployment up with the W&B key at the sites, or at the server."""
    up = f"from pathlib import Path; from multisite.console.deployment import Deployment; Deployment.load(Path('.')).up({clients})"
    done = stack.run("python3", "-c", up, PYTHONPATH="src")
    assert done.code == 0, done.text


def job_id_in(text: str) -> str:
    """The job id that a submit printed."""
    return next(line for line in text.splitlines() if line.startswith("job ") and " submitted" in line).split()[1]
