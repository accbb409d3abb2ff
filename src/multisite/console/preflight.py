"""What can fail is checked before `make up` changes anything: the engine, disk space, the port, GPUs that were asked for."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

from multisite.console import images
from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError, Settings

IMAGE_GIB, RUN_GIB = 12, 1
ANY_ADDRESS = "0.0.0.0"
TCP, LISTENS = Path("/proc/net/tcp"), "0A"


def check(settings: Settings, docker: Docker) -> list[str]:
    """Starts or installs the engine if it has to, and checks the disk and the port.

    Returns:
        The services that run already.

    Raises:
        ConsoleError: something is missing; it says what, where, and what to do.
    """
    check_readable(settings.home / "project.yml")
    info = ensure_engine(settings, docker)
    check_disk(info, images.exist(docker))
    check_project(settings, docker)
    standing = [container.service for container in docker.containers().values() if container.state == "running"]
    check_port(settings, next(filter(None, (docker.published(name) for name in ("gateway", "server") if name in standing)), None))
    return standing


def check_readable(path: Path) -> None:
    """
    Raises:
        ConsoleError: the containers' user can't read it (a checkout that was made with umask 077).
    """
    if path.exists() and not path.stat().st_mode & stat.S_IROTH:
        raise ConsoleError(
            "project.yml", f"{path} is readable for its owner alone, and a container has to read it", f"chmod a+r '{path}'"
        )


def ensure_engine(settings: Settings, docker: Docker) -> dict[str, Any]:
    """An engine that answers, Compose, and what it builds with.

    Returns:
        `docker info`.
    """
    info = docker.info()
    plugins = (info.get("ClientInfo") or {}).get("Plugins") or []
    if {"compose", "buildx"} <= {plugin.get("Name") for plugin in plugins}:
        return info
    environment = {**os.environ, "INSTALL_ENGINE": settings.get("INSTALL_ENGINE", "ask")}
    if subprocess.run(["docker/engine.sh", "ensure"], cwd=settings.home, env=environment, check=False).returncode:
        raise SystemExit(1)  # it has said why
    return docker.info()


def check_disk(info: dict[str, Any], images_exist: bool) -> None:
    """
    Raises:
        ConsoleError: the engine's disk has no room for the images, or for a job.
    """
    root = str(info.get("DockerRootDir", ""))
    if not os.path.isdir(root):
        return  # the engine's disk is another machine's
    needed = RUN_GIB if images_exist else IMAGE_GIB
    free = shutil.disk_usage(root).free / 2**30
    if free < needed:
        raise ConsoleError("disk", f"{free:.1f} GiB free in {root}, {needed} GiB needed", "free space: docker system prune")


def check_project(settings: Settings, docker: Docker) -> None:
    """
    Raises:
        ConsoleError: there is no name; or a deployment in another folder has it, and Compose would take its containers for ours.
    """
    if not settings.project:
        raise ConsoleError("project name", f"Compose can make none of {settings.home.name!r}", "COMPOSE_PROJECT_NAME=... in .env")
    form = '{{.Label "com.docker.compose.project.working_dir"}}'
    mine = f"label=com.docker.compose.project={settings.project}"
    listed = docker.run(["ps", "--all", "--filter", mine, "--format", form]).out.split("\n")
    homes = {home for home in listed if os.path.isdir(home)}  # a folder that was moved is the same deployment
    if homes := {home for home in homes if not os.path.samefile(home, settings.home)}:
        raise ConsoleError(
            "project name",
            f"{settings.project} is the name of the deployment in {sorted(homes)[0]} too",
            "give this one another: COMPOSE_PROJECT_NAME=... in .env",
        )


def check_port(settings: Settings, published: tuple[str, int] | None = None) -> None:
    """
    Args:
        settings: with the address and the port that the server is to have.
        published: those that it has now, if it runs; it gives them up for the others.

    Raises:
        ConsoleError: the server's port is taken by somebody else, or its address is not this host's.
    """
    address, port = settings.address, settings.port
    if (address, port) == published:
        return
    own = published is not None and published[1] == port and ANY_ADDRESS in (address, published[0])
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, 0 if own else port))  # the server itself listens on one of the addresses that it is to have
        if published is not None and own and listeners(port) - {published[0]}:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except OSError as error:
        raise ConsoleError(
            "port",
            f"{address}:{port} can't be used ({error.strerror})",
            "end what listens there (ss -ltnp), or set SERVER_PORT or BIND_ADDRESS in .env",
        ) from None


def listeners(port: int) -> set[str]:
    """The IPv4 addresses of this host on which somebody listens at a port, by the kernel's own list."""
    try:
        rows = [line.split() for line in TCP.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return set()
    places = [row[1].split(":") for row in rows if row[3] == LISTENS]
    return {socket.inet_ntoa(struct.pack("=I", int(address, 16))) for address, number in places if int(number, 16) == port}


def wants_gpus(settings: Settings, docker: Docker) -> bool:
    """Whether the sites get the host's GPUs: GPUS=auto takes them where driver and runtime answer.

    Raises:
        ConsoleError: GPUS=all, and one of them does not.
    """
    wish = settings.get("GPUS", "auto")
    if wish == "none":
        return False
    driver = (
        shutil.which("nvidia-smi") is not None
        and not subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False).returncode
    )
    if not driver and wish == "auto":
        return False
    runtime = "nvidia" in (docker.info().get("Runtimes") or {})
    if wish == "all" and not (driver and runtime):
        missing = "the NVIDIA driver (nvidia-smi)" if not driver else "Docker's NVIDIA runtime"
        raise ConsoleError("GPUs", f"GPUS=all, but {missing} does not answer", "install the NVIDIA Container Toolkit, or GPUS=none")
    return driver and runtime
