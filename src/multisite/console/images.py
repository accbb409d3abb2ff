"""The images: `docker compose build`, which builds what has changed."""

from __future__ import annotations

import subprocess
import time

from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError, Settings
from multisite.console.text import say
from multisite.text import clean

BASE = "debian:bookworm-slim"
TEST = ("-f", "compose.yaml", "-f", "docker/test.yaml", "--profile", "test")
BUILD_SECONDS = 3600.0
SAID_SECONDS = 5.0  # a build that took less had nothing to do
TAIL_LINES = 40
NOT_ASCII = "non-printable ASCII"  # BuildKit, of a header with the folder's name; some engines build there all the same
RENAME = "this engine builds in no folder whose name has letters beyond ASCII: rename the folder, or use a newer engine"
READ = "read the lines above; a proxy that re-signs TLS needs CA_BUNDLE in .env"


def exist(docker: Docker) -> bool:
    """Whether the deployment has images, current or not."""
    return bool(names(docker))


def names(docker: Docker) -> list[str]:
    """The images of this deployment alone."""
    listed = docker.run(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={docker.project}-*"]).out
    wanted = {f"{docker.project}-{target}" for target in ("control", "site", "gateway")}
    return [name for name in listed.split() if name.rpartition(":")[0] in wanted]


def base(settings: Settings) -> str:
    """The image that they start from: pulled, or built from the distribution's packages where no registry answers.

    Raises:
        SystemExit: there is none; why was said.
    """
    command = ["docker/base-image.sh", settings.get("BASE_IMAGE", BASE)]
    done = subprocess.run(command, cwd=settings.home, stdout=subprocess.PIPE, encoding="utf-8", timeout=BUILD_SECONDS, check=False)
    if done.returncode:
        raise SystemExit(1)
    return done.stdout.strip()


def build(settings: Settings, docker: Docker, *files: str) -> dict[str, str]:
    """Builds what has changed; says so where that took a while.

    Args:
        files: other compose files, as Compose's options.

    Returns:
        What plain `docker compose build` needs in `.env`: BASE_IMAGE_HERE, which goes before BASE_IMAGE where that can't be pulled.

    Raises:
        ConsoleError: an image can't be built; with the last lines of what was said.
    """
    started, found = time.monotonic(), base(settings)
    managed = {"BASE_IMAGE_HERE": "" if found == settings.get("BASE_IMAGE", BASE) else found}
    docker.environment.update(managed)
    if not exist(docker):
        say("images: building; the first time this takes minutes")
    result = docker.compose(*files, "--progress", "plain", "build", seconds=BUILD_SECONDS)
    if result.code:
        lines = [clean(line) for line in (result.out + result.err).splitlines() if line.strip()]
        raise ConsoleError(
            "images",
            "they can't be built; the last lines:\n  " + "\n  ".join(lines[-TAIL_LINES:]),
            RENAME if NOT_ASCII in result.out + result.err else READ,
        )
    if (seconds := time.monotonic() - started) > SAID_SECONDS:
        say(f"images: built in {seconds:.0f} s")
    return managed
