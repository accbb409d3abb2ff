"""The four arms: each runs the same job once and says when what happened."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multisite.nvflare_patches import NAMES
from tests.bench.federation import MARK
from tests.e2e.stack import KEY, PROJECT, Stack, job_id_in

HERE = Path(__file__).parent
PARTITION = "iid-seed0"
END_SECONDS = 600.0
IMAGE = f"multisite-test:{os.environ.get('IMAGE_TAG') or 'local'}"
SESSION = """
import sys, contextlib, shutil
from nvflare.fuel.flare_api.flare_api import new_secure_session
with contextlib.redirect_stdout(sys.stderr):
    session = new_secure_session("admin@bench.example", "/kits/stock/prod_00/admin@bench.example", timeout=30)
    {body}
    session.close()
"""
SUBMIT = """job = session.submit_job("/tmp/job/stock")
    session.monitor_job(job, poll_interval=1.0)
    session.download_job_result(job, "/tmp")"""
READY = """
    import time
    end = time.monotonic() + 60
    while len(session.get_system_info().client_info) < 2 and time.monotonic() < end: time.sleep(0.5)"""


@dataclass(frozen=True)
class Job:
    """What every arm runs."""

    rounds: int = 10
    network: str = "upstream"
    batch_size: int = 32
    lr: float = 0.05
    seed: int = 0

    def arguments(self) -> list[str]:
        """For `work.add_arguments`."""
        values = {**vars(self), "shards": "/shards/{site}", "partition": PARTITION}
        return [text for name, value in values.items() for text in (f"--{name}", str(value))]


@dataclass
class Timeline:
    """One run: seconds since the epoch."""

    issued: float
    done: float = 0.0
    began: dict[tuple[int, str], float] = field(default_factory=dict)  # a site's local work of a round: evaluation and training
    ended: dict[tuple[int, str], float] = field(default_factory=dict)
    first_step: float = 0.0
    every_first_step: float = 0.0
    weights: Path | None = None

    def add(self, site: str, number: int, began: float, step: float, ended: float) -> None:
        """One site's round."""
        self.began[number, site], self.ended[number, site] = began, ended
        if number == 0:
            self.first_step = min(self.first_step or step, step)
            self.every_first_step = max(self.every_first_step, step)

    def add_marks(self, text: str) -> None:
        """From an arm's output."""
        for line in text.splitlines():
            _, found, rest = line.partition(MARK)
            if not found:
                continue
            mark = json.JSONDecoder().raw_decode(rest)[0]
            if "round" in mark:
                self.add(mark["site"], mark["round"], mark["began"], mark["step"], mark["ended"])

    def last(self, number: int, of: dict[tuple[int, str], float]) -> float:
        """When the last site did it."""
        return max(when for (round_, _), when in of.items() if round_ == number)

    @property
    def rounds(self) -> int:
        """How many there were."""
        return 1 + max(number for number, _ in self.ended)

    def between(self) -> list[float]:
        """From the moment when the last site has trained to the one when the last site begins again."""
        return [self.last(number, self.began) - self.last(number - 1, self.ended) for number in range(1, self.rounds)]

    def figures(self) -> dict[str, float]:
        """Seconds."""
        work = [self.last(number, self.ended) - self.last(number, self.began) for number in range(self.rounds)]
        return {
            "a round beyond its work": statistics.median(self.between()),
            "the longest of these": max(self.between()),
            "command to first local step": self.first_step - self.issued,
            "command to every site's first local step": self.every_first_step - self.issued,
            "last local step to results on disk": self.done - self.last(self.rounds - 1, self.ended),
            "whole job": self.done - self.issued,
            "work of a round": statistics.median(work),
        }


class Arms:
    """All four, on the shards and the machine of one deployment."""

    def __init__(self, stack: Stack, job: Job, threads: str, sites: int = 2) -> None:
        self.stack, self.job, self.threads, self.sites = stack, job, threads, sites
        self.stock = {
            "DEPLOYMENT": stack.name, "PROJECT": str(PROJECT), "SITE_THREADS": threads, "WANDB_KEY": KEY,
            "COMPOSE_FILE": str(HERE / "stock.yaml"), "COMPOSE_PROJECT_NAME": f"{stack.name}-stock", "COMPOSE_ENV_FILES": "/dev/null",
        }  # fmt: skip

    def container(self, *command: str, volumes: tuple[str, ...] = ()) -> str:
        """Runs a command in a container of the site's image; returns its output."""
        name = self.stack.name
        mounts = [
            f"{PROJECT}:/project:ro",
            *(f"{name}_shard-site-{n if n < 3 else 1}:/shards/site-{n}:ro" for n in range(1, self.sites + 1)),
            *volumes,
        ]
        options = [text for mount in mounts for text in ("--volume", mount)]
        done = self.stack.run(
            "docker", "run", "--rm", "--init", "--network", "none", *options, "--env", "PYTHONPATH=/project:/opt/multisite",
            "--env", f"SITE_THREADS={self.threads}", "--env", "HOME=/tmp", "--user", "1000:1000", IMAGE, *command,
        )  # fmt: skip
        assert done.code == 0, done.text[-3000:]
        return done.text

    def plain(self) -> Timeline:
        """A."""
        out = self.stack.home / "plain"
        out.mkdir(exist_ok=True)
        out.chmod(0o777)
        line = Timeline(time.time())
        command = ["python", "-m", "tests.bench.federation.plain", *self.job.arguments(), "--sites", str(self.sites)]
        command += ["--out", "/out/weights.safetensors"]
        line.add_marks(self.container(*command, volumes=(f"{out}:/out",)))
        line.done, line.weights = time.time(), out / "weights.safetensors"
        return line

    def simulator(self) -> Timeline:
        """B."""
        line = Timeline(time.time())
        line.add_marks(self.container("python", "-m", "tests.bench.federation.recipe", *self.job.arguments(), "--simulate"))
        line.done = time.time()
        return line

    def start_stock(self) -> None:
        """Provisions and starts arm C's containers; the sites are registered when this returns."""
        kits = f"{self.stack.name}_stock-kits"
        assert self.stack.run("docker", "volume", "create", kits).code == 0
        script = "chown 1000:1000 /kits && setpriv --reuid 1000 --regid 1000 --clear-groups nvflare provision -p /project/tests/bench/federation/stock-project.yml -w /kits --force"
        done = self.stack.run(
            "docker", "run", "--rm", "--user", "0", "--volume", f"{kits}:/kits", "--volume", f"{PROJECT}:/project:ro", "--env", "HOME=/tmp",
            IMAGE, "sh", "-c", script,
        )  # fmt: skip
        assert done.code == 0, done.text
        up = self.stack.run("docker", "compose", "up", "--detach", **self.stock)
        assert up.code == 0, up.text
        ready = self.in_stock_admin("python", "-c", SESSION.format(body=READY))
        assert ready.code == 0, ready.text

    def in_stock_admin(self, *command: str) -> Any:
        """A command in arm C's admin container."""
        return self.stack.run("docker", "compose", "exec", "-T", "admin", *command, **self.stock)

    def stop_stock(self) -> None:
        """Removes arm C."""
        self.stack.run("docker", "compose", "down", "--volumes", "--timeout", "2", **self.stock)
        self.stack.run("docker", "volume", "rm", f"{self.stack.name}_stock-kits")

    def containers(self) -> Timeline:
        """C: the job is built and submitted by one command, as this deployment's is."""
        since = str(time.time())
        line = Timeline(time.time())
        recipe = ["python", "-m", "tests.bench.federation.recipe", *self.job.arguments(), "--into", "/tmp/job"]
        script = f"{' '.join(recipe)} && python -c '{SESSION.format(body=SUBMIT)}'"
        done = self.in_stock_admin("sh", "-c", script)
        line.done = time.time()
        assert done.code == 0, done.text
        line.add_marks(
            self.stack.run("docker", "compose", "logs", "--no-log-prefix", "--since", since, "site-1", "site-2", **self.stock).text
        )
        return line

    def deployment(self) -> Timeline:
        """D: `make submit`."""
        return self.submit(self.stack)

    def without(self, patch: str) -> Timeline:
        """D with one of NVFlare's patches left out, or without any: its containers are made again with that setting."""
        others = [name for name in NAMES if name != patch]
        self._set_patches("none" if patch == "none" or not others else ",".join(others))
        try:
            return self.submit(self.stack)
        finally:
            self._set_patches("all")

    def _set_patches(self, setting: str) -> None:
        env = self.stack.home / ".env"
        lines = [line for line in env.read_text(encoding="utf-8").splitlines() if not line.startswith("PATCHES=")]
        env.write_text("\n".join([*lines, f"PATCHES={setting}"]) + "\n", encoding="utf-8")
        up = self.stack.make("up")
        assert up.code == 0, up.text

    def submit(self, stack: Stack) -> Timeline:
        """A deployment's `make submit`, of this checkout or of another."""
        options = {"ROUNDS": self.job.rounds, "NETWORK": self.job.network, "BATCH_SIZE": self.job.batch_size, "LR": self.job.lr}
        line = Timeline(time.time())
        done = stack.make("submit", **{name: str(value) for name, value in options.items()}, SEED=str(self.job.seed))
        line.done = time.time()
        assert done.code == 0, done.text
        results = stack.home / "results" / job_id_in(done.text)
        for row in json.loads((results / "rounds.json").read_text(encoding="utf-8"))["rows"]:
            if "train_seconds" in row:
                ended = row["trained_at"]
                step = ended - row["train_seconds"]
                line.add(row["site"], row["round"], step - row["evaluate_seconds"], step, ended)
        line.weights = results / "models" / "global_model.safetensors"
        return line
