"""A job that runs is not harmed without a question: what would restart the server or a site asks first, or is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection

from multisite.console import admin
from multisite.console.containers import Containers
from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError
from multisite.console.text import ask

ENDED = "FINISHED"


def spare(docker: Docker, standing: Collection[str], moved_to: str) -> None:
    """Before a deployment that is up is changed: nothing if no job runs, or if the change leaves the server and the sites alone.

    A person at a terminal is asked; FORCE=yes goes on without a question.

    Args:
        docker: with the compose files that the deployment is to have.
        standing: the services that run.
        moved_to: who gets the W&B key, where that changes; else empty.

    Raises:
        ConsoleError: a job runs, and nobody said that it may end.
    """
    jobs, containers = running(docker), Containers(docker)
    if not jobs or os.environ.get("FORCE") == "yes":
        return
    causes = []
    if outdated := _participants(containers.outdated()):
        causes.append(f"moving the key to {moved_to}" if moved_to else f"new code or settings of {', '.join(outdated)}")
    if renewed := _participants(set(standing) & set(containers.new_kits())):
        causes.append(f"a new kit for {', '.join(renewed)}")
    if not causes:
        return
    problem = f"job {jobs[0]} is running, and {' and '.join(causes)} would kill it"
    if sys.stdin.isatty() and ask(f"{problem}. Go on? [y/N] ") in ("y", "yes"):
        return
    raise ConsoleError(
        "running job", problem, f"wait for it (make follow JOB={jobs[0]}), abort it (make abort JOB={jobs[0]}), or FORCE=yes"
    )


def running(docker: Docker) -> list[str]:
    """The jobs that have not ended; none where the server or the admin does not answer, for that has to be mendable."""
    there = docker.containers()
    if any(name not in there or there[name].state != "running" for name in ("admin", "server")):
        return []
    answers = [line for line in admin.ask(docker, "jobs") if line["event"] == "jobs"]
    return [job["job_id"] for line in answers for job in line["jobs"] if not str(job["status"]).startswith(ENDED)]


def _participants(services: Collection[str]) -> list[str]:
    """Those without which a job does not go on."""
    return [name for name in sorted(services) if name == "server" or name.startswith("site-")]
