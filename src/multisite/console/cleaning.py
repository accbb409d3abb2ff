"""`make down` and `make clean`: what goes, and what stays unless it is asked for by name."""

from __future__ import annotations

import shutil
import sys

from multisite.console import images
from multisite.console.deployment import Deployment
from multisite.console.settings import ConsoleError
from multisite.console.text import ask, say

VOLUMES = {
    "keys": ("kit-", "provision"),
    "data": ("shard-", "cifar10", "no-local-copy"),
    "state": ("server", "site-", "results"),
}
WHAT = {
    "keys": "startup kits and the root key: every site needs a new kit",
    "data": "shards and the downloaded CIFAR-10",
    "state": "job store and workspaces of this host's containers, with every metric that W&B has not yet (make sync)",
    "results": "the results folder",
    "images": "the images of this deployment",
}


def down(deployment: Deployment) -> None:
    """Removes containers and networks; every volume stays."""
    arguments = ("compose", "down", "--remove-orphans", "--timeout", "15")
    deployment.docker.run_or_fail("down", "docker compose ps --all", *arguments, seconds=180)
    mine = f"label=com.docker.compose.project={deployment.docker.project}"
    left = deployment.docker.run(["network", "ls", "--quiet", "--filter", mine]).out.split()
    if left:  # of compose files that are not chosen any more
        deployment.docker.run_or_fail("down", "docker network ls", "network", "rm", *left)
    say("containers and networks are gone; keys, data and results are kept (make clean)")


def clean(deployment: Deployment, what: str) -> None:
    """Deletes what `what` names (comma-separated, or `all`), after saying so.

    Raises:
        ConsoleError: nothing, or something unknown, was named, or the person said no.
    """
    chosen = list(WHAT) if what == "all" else [name.strip() for name in what.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in WHAT]
    if unknown or not chosen:
        listed = "\n".join(f"    {name:8} {text}" for name, text in WHAT.items())
        problem = f"WHAT={what} names nothing to delete" if unknown else "nothing is deleted without its name"
        raise ConsoleError("clean", f"{problem}; there are:\n{listed}", "make clean WHAT=state,results (or WHAT=all)")
    say("this stops the deployment and deletes:")
    for name in chosen:
        say(f"  {name:8} {WHAT[name]}")
    if sys.stdin.isatty() and ask("delete them? [y/N] ") not in ("y", "yes"):
        raise ConsoleError("clean", "nothing was deleted", "answer y")
    down(deployment)
    _delete_volumes(deployment, chosen)
    if "results" in chosen:
        shutil.rmtree(deployment.settings.path("RESULTS_DIR") or deployment.settings.home / "results", ignore_errors=True)
    if "images" in chosen and (names := images.names(deployment.docker)):
        deployment.docker.run(["image", "rm", *names], seconds=300)
    say("deleted")


def _delete_volumes(deployment: Deployment, chosen: list[str]) -> None:
    project = deployment.docker.project
    names = deployment.docker.run(
        [
            "volume",
            "ls",
            "--filter",
            f"label=com.docker.compose.project={project}",
            "--format",
            '{{.Label "com.docker.compose.volume"}} {{.Name}}',
        ]
    ).out
    prefixes = tuple(prefix for name in chosen for prefix in VOLUMES.get(name, ()))
    doomed = [line.split()[1] for line in names.splitlines() if prefixes and line.startswith(prefixes)]
    if not doomed:
        return
    result = deployment.docker.run(["volume", "rm", *doomed])
    if result.code:
        raise ConsoleError("clean", result.err.strip(), "docker ps --all: something still uses them")
