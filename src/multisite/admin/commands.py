"""What the admin can do: each command speaks NVFlare through a logged-in session and says what happens in events.

An event is a name and fields, see `service.Emitter`. A command returns its exit status.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.api_spec import TargetType
from nvflare.fuel.flare_api.flare_api import Session

from multisite.admin.command_line import EXIT_FAILED, EXIT_TIMEOUT
from multisite.admin.following import Follower
from multisite.admin.results import folder_of, read
from multisite.admin.site_report import read_report
from multisite.job import options as job_options
from multisite.job import progress
from multisite.job.messages import ERRORS
from multisite.job.participants import draw
from multisite.tracking import receiver as tracking
from multisite.tracking.spool import SERVER

POLL_SECONDS = 0.5
START_PERIOD = 0.5  # NVFlare keeps a thread for a minute for every answer that it has received
RESOURCES_SECONDS = 3.0  # a site answers as soon as it has started, a moment after it has registered
RESULTS = Path("/results")
FINISHED = "FINISHED"
COMPLETED, INCOMPLETE = "FINISHED:COMPLETED", "FINISHED:INCOMPLETE"

Emit = Callable[..., None]


def wait(flare: Session, arguments: argparse.Namespace, emit: Emit) -> int:
    """Reports the registered sites once all of `--sites` are among them."""
    wanted = {name for name in arguments.sites.split(",") if name}
    deadline = time.monotonic() + arguments.timeout
    while True:
        registered = {client.name for client in flare.get_system_info().client_info}
        missing = sorted(wanted - registered)
        if not missing or time.monotonic() > deadline:
            emit("sites", registered=sorted(registered), missing=missing, resources=_resources(flare, registered))
            return EXIT_TIMEOUT if missing else 0
        time.sleep(START_PERIOD)


def _resources(flare: Session, registered: Collection[str]) -> dict[str, dict[str, Any]]:
    """What the registered sites have to offer, see `node.resources`; without those that don't answer."""
    answered: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + RESOURCES_SECONDS
    flare.set_timeout(RESOURCES_SECONDS)
    try:
        while (silent := sorted(set(registered) - set(answered))) and time.monotonic() < deadline:
            for site, text in flare.report_resources(TargetType.CLIENT, silent).items():
                if report := read_report(str(text)):
                    answered[site] = report
            if len(answered) < len(registered):
                time.sleep(START_PERIOD)
    except Exception as error:
        print(f"sites without a report: {silent} ({error})", file=sys.stderr)
    finally:
        flare.unset_timeout()
    return answered


def jobs(flare: Session, arguments: argparse.Namespace, emit: Emit) -> int:
    """Lists the jobs, newest first, and the registered sites, with what they have to offer if asked."""
    listed = flare.list_jobs(detailed=False, reverse=True, limit=arguments.limit)
    registered = sorted(client.name for client in flare.get_system_info().client_info)
    emit(
        "jobs",
        registered=registered,
        resources=_resources(flare, registered) if arguments.resources else {},
        jobs=[{key: job.get(key) for key in ("job_id", "job_name", "status", "submit_time", "duration")} for job in listed],
    )
    return 0


def submit(flare: Session, arguments: argparse.Namespace, emit: Emit) -> int:
    """Exports the job for the sites that take part, submits it and follows it."""
    options = job_options.from_arguments(arguments)
    registered = sorted(client.name for client in flare.get_system_info().client_info)
    sites = [name for name in arguments.on.split(",") if name] or draw(registered, options.sites, options.seed)
    if len(registered) < options.sites:
        emit("error", message=f"the job wants {options.sites} sites and {len(registered)} are registered: {', '.join(registered)}")
        return EXIT_FAILED
    if missing := [name for name in sites if name not in registered]:
        emit(
            "error", message=f"{', '.join(missing)}: not registered any more", next=f"make status; docker compose logs {missing[0]}"
        )
        return EXIT_FAILED
    from multisite.job.recipe import NAME, Cifar10Recipe  # 19 MiB and a quarter of a second, for whoever submits

    with tempfile.TemporaryDirectory() as folder:
        Cifar10Recipe(options, sites).export(folder)
        job_id = flare.submit_job(str(Path(folder) / NAME))
    emit("submitted", job_id=job_id, rounds=options.rounds, sites=sites)
    return _follow(flare, job_id, emit)


def follow(flare: Session, arguments: argparse.Namespace, emit: Emit) -> int:
    """Follows a job that was submitted before."""
    return _follow(flare, arguments.job, emit)


def _follow(flare: Session, job_id: str, emit: Emit) -> int:
    """Reports status changes and site reports until the job ends, then brings its results."""
    follower = Follower(emit)
    flare.monitor_job(job_id, poll_interval=POLL_SECONDS, cb=follower.look)
    return _bring_results(flare, job_id, follower.status, follower.shown, emit)


def _bring_results(flare: Session, job_id: str, status: str, shown: int, emit: Emit) -> int:
    target = folder_of(flare, job_id, RESULTS)
    report, meta = read(target / progress.RESULTS), flare.get_job_meta(job_id)
    errors = what_failed(report, meta)
    if status == COMPLETED and not report.get("complete", True):
        status = INCOMPLETE
        errors = errors or {
            "server": f"the job ended in round {report['round']} of {report['rounds']}, and NVFlare calls that completed"
        }
    for row in report.get("rows", [])[shown:]:
        emit("report", row=row, round=report["round"], rounds=report["rounds"], started=report["started"])
    emit(
        "finished",
        job_id=job_id,
        status=status,
        folder=str(target),
        errors=errors,
        final=report.get("final"),
        best=report.get("best"),
        tracking=read(target / tracking.FILE),
        meta={key: value for key, value in meta.items() if key in ("duration", "job_deploy_detail")},
    )
    return 0 if status == COMPLETED else EXIT_FAILED


def what_failed(report: dict[str, Any], meta: dict[str, Any]) -> dict[str, str]:
    """Participant -> reason: what the job itself said; else how a site's process ended; else how the server's did.

    What comes later in that list mostly follows from what comes first: a job that has failed ends every process.

    Args:
        report: `job.progress`'s; empty if the job left none.
        meta: NVFlare's metadata of the job.
    """
    ended = {str(name): str(reason) for name, reason in (meta.get(ERRORS) or {}).items()}
    sites = {name: reason for name, reason in ended.items() if name != SERVER}
    return dict(report.get("errors") or sites or ended)


def abort(flare: Session, arguments: argparse.Namespace, emit: Emit) -> int:
    """Aborts a job and reports its last status."""
    deadline = time.monotonic() + arguments.timeout
    flare.abort_job(arguments.job)
    while True:
        status = str(flare.get_job_meta(arguments.job).get("status", ""))
        if status.startswith(FINISHED) or time.monotonic() > deadline:
            emit("status", status=status)
            return 0 if status.startswith(FINISHED) else EXIT_TIMEOUT
        time.sleep(POLL_SECONDS)


def results(flare: Session, arguments: argparse.Namespace, emit: Emit) -> int:
    """Brings the results of a finished job."""
    status = str(flare.get_job_meta(arguments.job).get("status", ""))
    if not status.startswith(FINISHED):
        emit("error", message=f"job {arguments.job} is {status}: it has no results yet")
        return EXIT_FAILED
    return _bring_results(flare, arguments.job, status, 0, emit)


COMMANDS: dict[str, Callable[[Session, argparse.Namespace, Emit], int]] = {
    "wait": wait,
    "jobs": jobs,
    "submit": submit,
    "follow": follow,
    "abort": abort,
    "results": results,
}
