"""The images: built when what goes into them has changed."""

from __future__ import annotations

import hashlib
import os
import subprocess

from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError, Settings

TARGETS = ("gateway", "control", "site")
LABEL = "multisite.inputs"
INPUTS = (
    "docker/Dockerfile",
    "docker/haproxy.cfg",
    "docker/install.sh",
    "docker/requirements",
    "src/multisite",
    "jobs",
)
ARGUMENTS = {"BASE_IMAGE": "debian:bookworm-slim", "TORCH_INDEX": "", "NVFLARE": ""}
BUILD_SECONDS = 3600.0


def tag(settings: Settings) -> str:
    """The tag of the deployment's images."""
    return settings.get("IMAGE_TAG", "local")


def fingerprint(settings: Settings) -> str:
    """Of everything that an image is made from."""
    state = hashlib.sha256()
    for name in INPUTS:
        root = settings.home / name
        for path in sorted([root] if root.is_file() else root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                state.update(str(path.relative_to(settings.home)).encode() + path.read_bytes())
    for name, default in ARGUMENTS.items():
        state.update(f"{name}={settings.get(name, default)}".encode())
    return state.hexdigest()[:16]


def labels(settings: Settings, docker: Docker, targets: tuple[str, ...]) -> dict[str, str]:
    """The inputs that the images were made from; without those that are missing."""
    names = {f"multisite-{target}:{tag(settings)}": target for target in targets}
    form = f'{{{{index .Config.Labels "{LABEL}"}}}} {{{{join .RepoTags " "}}}}'
    listed = docker.run(["image", "inspect", "--format", form, *names]).out.splitlines()
    return {names[name]: line.split(" ")[0] for line in listed for name in line.split(" ")[1:] if name in names}


def exist(settings: Settings, docker: Docker) -> bool:
    """Whether every image is there, current or not."""
    return len(labels(settings, docker, TARGETS)) == len(TARGETS)


def stale_targets(settings: Settings, docker: Docker, targets: tuple[str, ...] = TARGETS) -> list[str]:
    """The images that are missing, or were made from something else than what is here now."""
    inputs, made = fingerprint(settings), labels(settings, docker, targets)
    return [target for target in targets if made.get(target) != inputs]


def build(settings: Settings, docker: Docker, targets: tuple[str, ...] = TARGETS) -> None:
    """Builds the images whose inputs have changed.

    Raises:
        ConsoleError: a build did not end in BUILD_SECONDS.
    """
    inputs = fingerprint(settings)
    stale = stale_targets(settings, docker, targets)
    if not stale:
        return
    environment = {**os.environ, "INPUTS": inputs, **{name: settings.get(name) for name in ARGUMENTS if settings.get(name)}}
    if bundle := settings.path("CA_BUNDLE"):
        environment["CA_BUNDLE"] = str(bundle)
    try:
        done = subprocess.run(
            ["docker/build.sh", tag(settings), *stale], cwd=settings.home, env=environment, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConsoleError("images", f"not built within {BUILD_SECONDS:.0f} s", "check the network, then run it again") from None
    if done.returncode:
        raise SystemExit(1)  # it has said why
