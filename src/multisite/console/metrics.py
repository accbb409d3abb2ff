"""`make sync`, and the metrics part of `make status`: what the spools of this host's containers hold."""

from __future__ import annotations

from typing import Any

from multisite.console import report
from multisite.console.deployment import Deployment
from multisite.console.settings import ConsoleError
from multisite.console.text import objects, say
from multisite.federation.text import clean

SYNC_SECONDS = 300.0
COMMAND = ("python", "-m", "multisite.tracking.sync")


def _ask(deployment: Deployment, service: str, *arguments: str) -> list[dict[str, Any]]:
    """The job reports of one container's spool.

    Raises:
        ConsoleError: it does not answer.
    """
    result = deployment.docker.exec(service, *COMMAND, *arguments, seconds=SYNC_SECONDS + 60)
    told = objects(result.out)
    if not told:
        problem = (result.err.strip().splitlines() or ["no answer"])[-1]
        raise ConsoleError("metrics", f"{service}: {clean(problem)}", f"docker compose logs {service}")
    return list(told[0]["jobs"])


def status(deployment: Deployment) -> list[str]:
    """Lines for `make status`: every job's account by site, as the server knows it."""
    if not deployment.docker.running("server"):
        return []
    rows = [
        (job["job_id"], site, account["logged"], account["received"], account["delivered"], account["pending"], job["state"])
        for job in _ask(deployment, "server", "--status")
        for site, account in sorted(job["sites"].items())
    ]
    if not rows:
        return []
    return ["", report.table(("metrics of job", "site", "logged", "received", "delivered", "pending", "W&B"), rows)]


def sync(deployment: Deployment) -> int:
    """Delivers what is pending on the server and on this host's sites.

    Returns:
        0 if nothing is pending any more.
    """
    pending = 0
    for service in ["server", *deployment.docker.local_sites()]:
        if not deployment.docker.running(service):
            continue
        jobs = _ask(deployment, service, "--timeout", str(SYNC_SECONDS))
        for job in jobs:
            if not job["delivers"]:
                continue
            delivered = sum(account["delivered"] for account in job["sites"].values())
            left = job["pending"]
            pending += left
            why = f" ({job['state']}: {job['reason']})" if left and job["reason"] else ""
            say(f"{service}, job {job['job_id']}: {delivered} records delivered, {left} pending{why}")
    if pending:
        say("some metrics are not delivered; they are kept")
        say("  next: a good key (secrets/wandb_api_key, then make up) and a backend that answers, then make sync again")
        return 1
    say("nothing is pending")
    return 0
