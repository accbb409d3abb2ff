"""`make sync`, and the metrics part of `make status`: what the spools of this host's containers hold."""

from __future__ import annotations

from typing import Any

from multisite.console import report
from multisite.console.deployment import Deployment
from multisite.console.settings import ConsoleError
from multisite.console.text import objects, say
from multisite.text import clean

SYNC_SECONDS = 300.0
COMMAND = ("python", "-m", "multisite.tracking.sync")


def _ask(deployment: Deployment, service: str, *arguments: str) -> dict[str, Any]:
    """What one container's spool holds: `jobs`, a report each, and `refusals`.

    Raises:
        ConsoleError: it does not answer.
    """
    result = deployment.docker.exec(service, *COMMAND, *arguments, seconds=SYNC_SECONDS + 60)
    reply = objects(result.out)
    if not reply:
        problem = (result.err.strip().splitlines() or ["no answer"])[-1]
        raise ConsoleError("metrics", f"{service}: {clean(problem)}", f"docker compose logs {service}")
    return reply[0]


def status(deployment: Deployment) -> list[str]:
    """Lines for `make status`: every job's account by site, as the server knows it, and what is wrong with one."""
    if not deployment.docker.running("server"):
        return []
    reply = _ask(deployment, "server", "--status")
    rows = [
        (job["job_id"], site, account["logged"], account["received"], account["delivered"], account["pending"], job["state"])
        for job in reply["jobs"]
        for site, account in sorted(job["sites"].items())
    ]
    header = ("metrics of job", "site", "logged", "received", "delivered", "pending", "W&B")
    lines = [*([report.table(header, rows)] if rows else []), *_troubles(reply)]
    return ["", *lines] if lines else []


def _troubles(reply: dict[str, Any]) -> list[str]:
    """A line for every file that is not what it must be, every site with records that could not be sent, and every refusal."""
    lines = []
    for job in reply["jobs"]:
        lines += [f"job {job['job_id']}: {problem}" for problem in job["problems"]]
        for site, account in sorted(job["sites"].items()):
            if account["set_aside"]:
                lines.append(f"job {job['job_id']}, {site}: {account['set_aside']} records are no metrics and set aside")
            if unconfirmed := account.get("unconfirmed", 0):
                lines.append(f"job {job['job_id']}, {site}: {unconfirmed} records sent, not confirmed: the backend can't be asked")
        if job["reason"] and job["state"] in ("online", "done"):  # a note of the writer, here or on a site
            lines.append(f"job {job['job_id']}: {job['reason']}")
    for site, kinds in sorted(reply["refusals"].items()):
        lines += [f"refused of {site}, at least {known['count']} times: {known['reason']}" for known in kinds.values()]
    return lines


def sync(deployment: Deployment) -> int:
    """Delivers what is pending on the server and on this host's sites.

    Returns:
        0 if nothing is pending any more.
    """
    pending = 0
    for service in ["server", *deployment.docker.local_sites()]:
        if not deployment.docker.running(service):
            continue
        for job in _ask(deployment, service, "--timeout", str(SYNC_SECONDS))["jobs"]:
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
