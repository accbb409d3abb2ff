"""`make kit SITE=site-3`: the startup kit of a site that runs on another host, as a folder to carry there."""

from __future__ import annotations

import os
import subprocess

from multisite.console.archive import unpack
from multisite.console.containers import PROVISION, provisioning_error
from multisite.console.deployment import Deployment
from multisite.console.settings import ConsoleError
from multisite.console.text import say

COPY_SECONDS = 60.0
CONTAINER_UID = 1000


def export(deployment: Deployment, site: str) -> None:
    """Writes `kits/<site>` from the provisioning volume, readable by its owner only.

    Raises:
        ConsoleError: project.yml has no such site, or its kit can't be read or written.
    """
    if not site:
        raise ConsoleError("kit", "no site is named", "make kit SITE=site-3 (a client of project.yml)")
    command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "provision", *PROVISION, f"--export={site}"]
    done = subprocess.run(
        command, cwd=deployment.settings.home, env=deployment.docker.env(), capture_output=True, timeout=COPY_SECONDS,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise provisioning_error(done.stderr.decode("utf-8", "replace"), "docker compose ps --all")
    kits = deployment.settings.home / "kits"
    kits.mkdir(mode=0o700, exist_ok=True)
    unpack(done.stdout, kits, "kit")
    if os.getuid() == 0:  # the container's user; anybody else says so with chown on the site's host
        for path in [kits / site, *(kits / site).rglob("*")]:
            os.chown(path, CONTAINER_UID, CONTAINER_UID)
    say(f"kits/{site} holds a private key: carry it to its host over a safe channel, then delete it here.")
    image = f"{deployment.docker.project}-site:{deployment.settings.get('IMAGE_TAG', 'local')}"
    say(f"There, with docker/compose.site.yaml, docker/base.yaml and the image (docker save {image}):")
    say(f"  SERVER_ADDRESS=... SITE_IMAGE={image} KIT=./{site} DATA=./data docker compose -f compose.site.yaml up -d")
