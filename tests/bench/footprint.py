"""What the deployment takes while it idles and while a job runs, with 2 and with 8 sites:  PYTHONPATH=src .venv/bin/python -m tests.bench.footprint

warm up    `make up` after `make down`: nothing to build or to prepare; until every site is registered
idle       CPU over a minute, and memory at its end, of each container
peak       the most memory that the server and the site with most of it used in a job of one round, all of CIFAR-10
Memory is what `docker stats` calls it: the control group's, less inactive file pages.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.federation.__main__ import machine
from tests.e2e.more_sites import more_sites
from tests.e2e.stack import Stack, free_port

IDLE_SECONDS = 60.0
ENGINE = "/var/run/docker.sock"


class EngineConnection(http.client.HTTPConnection):
    """HTTP to the local Docker engine."""

    def connect(self) -> None:
        """Through its socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(ENGINE)


def read(container: str) -> tuple[float, float]:
    """CPU seconds so far, and MiB now, as `docker stats` counts them, without its wait."""
    connection = EngineConnection("localhost", timeout=20)
    connection.request("GET", f"/containers/{container}/stats?stream=false&one-shot=true")
    stats = json.loads(connection.getresponse().read())
    connection.close()
    memory = stats["memory_stats"]
    pages = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))  # cgroup v1, v2
    return stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, (memory["usage"] - pages) / 2**20


def warm_up(stack: Stack) -> float:
    """Seconds of `make up` after `make down`."""
    assert stack.make("down").code == 0
    up = stack.make("up")
    assert up.code == 0, up.text
    return up.seconds


def idle(stack: Stack) -> None:
    """A line for each container."""
    containers = {name: box for name, box in stack.containers().items() if name.startswith(("server", "site", "admin"))}
    before = {name: read(box)[0] for name, box in containers.items()}
    began = time.monotonic()
    time.sleep(IDLE_SECONDS)  # what is measured
    for name, box in containers.items():
        cpu, memory = read(box)
        share = (cpu - before[name]) / (time.monotonic() - began)
        print(f"idle {name}: {100 * share:.2f}% of a core, {memory:.1f} MiB", flush=True)


def peak(stack: Stack) -> dict[str, float]:
    """MiB of the server and of every site, at their highest, during a job."""
    highest: dict[str, float] = {}
    over = threading.Event()
    containers = {name: box for name, box in stack.containers().items() if name.startswith(("server", "site"))}

    def watch() -> None:
        while not over.is_set():
            for name, box in containers.items():
                with contextlib.suppress(KeyError):  # it has just ended
                    highest[name] = max(highest.get(name, 0.0), read(box)[1])
            over.wait(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = stack.make("submit", ROUNDS="1")
    finally:
        over.set()
        watcher.join()
    assert done.code == 0, done.text
    return highest


def started_and_idle(stack: Stack, sites: int) -> None:
    """The lines of a deployment that does nothing."""
    times = ", ".join(f"{warm_up(stack):.1f}" for _ in range(3))
    print(f"warm `make up` with {sites} sites: {times} s", flush=True)
    idle(stack)


def alone() -> None:
    """Two sites without the stand-in for W&B, which is a container of its own."""
    home = Path(tempfile.mkdtemp()) / "multisite"
    home.mkdir()
    stack = Stack(home, f"multisite-alone-{os.getpid()}", free_port(), home / "transcript.txt", {"COMPOSE_EXTRA": ""})
    stack.create()
    stack.write_key(None)
    try:
        up = stack.make("up", seconds=900)
        assert up.code == 0, up.text
        started_and_idle(stack, 2)
    finally:
        stack.destroy()


def main() -> None:
    """Prints the lines."""
    print(machine(), flush=True)
    alone()
    home = Path(tempfile.mkdtemp()) / "multisite"
    home.mkdir()
    stack = Stack(home, f"multisite-bench-{os.getpid()}", free_port(), home / "transcript.txt", {"DATA_LIMIT": "50000"})
    stack.create()
    try:
        up = stack.make("up", seconds=900)
        assert up.code == 0, up.text
        for sites in (2, 8):
            with more_sites(stack, sites) if sites > 2 else contextlib.nullcontext():
                if sites > 2:
                    started_and_idle(stack, sites)
                highest = peak(stack)
                site = max(value for name, value in highest.items() if name != "server")
                print(f"peak in a job with {sites} sites: server {highest['server']:.0f} MiB, a site {site:.0f} MiB", flush=True)
    finally:
        stack.destroy()


if __name__ == "__main__":
    main()
