"""The admin container's side of the console: one NVFlare login, commands in, JSON lines out.

    python -m multisite.console.admin wait --sites site-1,site-2 --timeout 90
    python -m multisite.console.admin submit OPTIONS | follow JOB | abort JOB | jobs | results JOB

Every line on stdout is one JSON object with an `event`; NVFlare's own messages go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.api_spec import JobNotFound, NoConnection
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from multisite.federation import options as job_options
from multisite.federation import progress
from multisite.federation.kit import KIT, KitError, read_kit
from multisite.tracking import receiver as tracking

CONNECT_SECONDS = 20.0
POLL_SECONDS = 1.0
RESULTS = Path("/results")
FINISHED = "FINISHED"
COMPLETED = "FINISHED:COMPLETED"
EXIT_FAILED, EXIT_NO_SERVER, EXIT_TIMEOUT = 1, 3, 4

out = sys.stdout


def emit(event: str, **fields: Any) -> None:
    """Writes one JSON line."""
    out.write(json.dumps({"event": event, **fields}) + "\n")
    out.flush()


@contextlib.contextmanager
def session(connect_seconds: float = CONNECT_SECONDS) -> Iterator[Session]:
    """A logged-in NVFlare session; closed at the end, or its threads would keep the process alive.

    Raises:
        NoConnection: no server answered in `connect_seconds`.
        KitError: the admin's kit is missing or expired.
    """
    kit = read_kit(KIT)
    kit.check_valid()
    home = Path(tempfile.mkdtemp())  # NVFlare wants to make its transfer folder beside the kit, which is read-only
    (home / "startup").symlink_to(kit.folder / "startup")
    (home / "local").symlink_to(kit.folder / "local")
    (home / "transfer").mkdir()
    opened = new_secure_session(kit.name, str(home), timeout=connect_seconds)
    try:
        yield opened
    finally:
        opened.close()
        shutil.rmtree(home, ignore_errors=True)


def connect_until(deadline: float) -> contextlib.AbstractContextManager[Session]:
    """A session as soon as the server accepts one, tried until `deadline` (time.monotonic)."""
    return session(max(1.0, deadline - time.monotonic()))


def wait(arguments: argparse.Namespace) -> int:
    """Reports the registered sites once all of `--sites` are among them."""
    wanted = {name for name in arguments.sites.split(",") if name}
    deadline = time.monotonic() + arguments.timeout
    with connect_until(deadline) as flare:
        while True:
            registered = {client.name: client.last_connect_time for client in flare.get_system_info().client_info}
            missing = sorted(wanted - set(registered))
            if not missing or time.monotonic() > deadline:
                emit("sites", registered=sorted(registered), missing=missing)
                return EXIT_TIMEOUT if missing else 0
            time.sleep(POLL_SECONDS)


def jobs(arguments: argparse.Namespace) -> int:
    """Lists the jobs, newest first, and the registered sites."""
    with session() as flare:
        listed = flare.list_jobs(detailed=False, reverse=True, limit=arguments.limit)
        emit(
            "jobs",
            registered=sorted(client.name for client in flare.get_system_info().client_info),
            jobs=[{key: job.get(key) for key in ("job_id", "job_name", "status", "submit_time", "duration")} for job in listed],
        )
    return 0


def submit(arguments: argparse.Namespace) -> int:
    """Exports the job, submits it and follows it."""
    from multisite.federation.recipe import NAME, Cifar10Recipe

    options = job_options.from_arguments(arguments)
    with tempfile.TemporaryDirectory() as folder, session() as flare:
        registered = {client.name for client in flare.get_system_info().client_info}
        if len(registered) < options.sites:
            emit("error", message=f"the job wants {options.sites} sites and {len(registered)} are registered: {sorted(registered)}")
            return EXIT_FAILED
        Cifar10Recipe(options).export(folder)
        job_id = flare.submit_job(str(Path(folder) / NAME))
        emit("submitted", job_id=job_id, rounds=options.rounds, sites=sorted(registered)[: options.sites])
        return _follow(flare, job_id)


def follow(arguments: argparse.Namespace) -> int:
    """Follows a job that was submitted before."""
    with session() as flare:
        return _follow(flare, arguments.job)


def _follow(flare: Session, job_id: str) -> int:
    """Reports status changes and site reports until the job ends, then brings its results."""
    status, told = "", 0
    snapshot: dict[str, Any] = {}
    while not status.startswith(FINISHED):
        current = str(flare.get_job_meta(job_id).get("status", ""))
        if current != status:
            status = current
            emit("status", status=status)
        if status == "RUNNING":
            snapshot = _stats(flare, job_id) or snapshot
            rows = snapshot.get("rows", [])
            for row in rows[told:]:
                emit("report", row=row, round=snapshot["round"], rounds=snapshot["rounds"], started=snapshot["started"])
            told = max(told, len(rows))
        if not status.startswith(FINISHED):
            time.sleep(POLL_SECONDS)
    return _bring_results(flare, job_id, status, told)


def _stats(flare: Session, job_id: str) -> dict[str, Any] | None:
    """The reporter's snapshot from NVFlare's job stats; None while the job has none to give.

    A job process that is starting or ending answers nothing, and NVFlare reports that as `NoConnection` to the server.
    Whether the server itself is gone, the next look at the job's status tells.
    """
    try:
        stats = flare.show_stats(job_id, "server")
    except Exception as error:
        print(f"no stats now: {error}", file=sys.stderr)
        return None
    server = stats.get("server") if isinstance(stats, dict) else None
    return server.get(progress.STATS_GROUP) if isinstance(server, dict) else None


def _bring_results(flare: Session, job_id: str, status: str, told: int) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / job_id
    shutil.rmtree(target, ignore_errors=True)
    downloaded = Path(flare.download_job_result(job_id, str(RESULTS)))
    arrange(downloaded, target)
    report = _read(target / progress.RESULTS)
    for row in report.get("rows", [])[told:]:
        emit("report", row=row, round=report["round"], rounds=report["rounds"], started=report["started"])
    emit(
        "finished",
        job_id=job_id,
        status=status,
        folder=str(target),
        errors=report.get("errors", {}),
        tracking=_read(target / tracking.FILE),
        meta={key: value for key, value in flare.get_job_meta(job_id).items() if key in ("duration", "job_deploy_detail")},
    )
    return 0 if status == COMPLETED else EXIT_FAILED


def arrange(downloaded: Path, target: Path) -> None:
    """Turns NVFlare's downloaded job into the folder that a person gets: models, metrics, configuration, server log.

    Args:
        downloaded: NVFlare's folder, with `workspace` and `job` in it. It stays, as `nvflare` in the target.
        target: `results/<job id>`, may be the same folder.
    """
    keep = target.with_name(target.name + ".nvflare")
    shutil.rmtree(keep, ignore_errors=True)
    downloaded.rename(keep)
    target.mkdir(parents=True)
    for name, pattern in {
        "models": "workspace/**/*.safetensors",
        "": "workspace/**/metrics/*.*",
        "logs": "workspace/**/*log*.txt",
        "job": "job/**/*.json",
    }.items():
        for source in keep.glob(pattern):
            place = target / name / (source.relative_to(keep / "job") if name == "job" else source.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
    shutil.rmtree(keep)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def abort(arguments: argparse.Namespace) -> int:
    """Aborts a job and reports its last status."""
    deadline = time.monotonic() + arguments.timeout
    with session() as flare:
        flare.abort_job(arguments.job)
        while True:
            status = str(flare.get_job_meta(arguments.job).get("status", ""))
            if status.startswith(FINISHED) or time.monotonic() > deadline:
                emit("status", status=status)
                return 0 if status.startswith(FINISHED) else EXIT_TIMEOUT
            time.sleep(POLL_SECONDS)


def results(arguments: argparse.Namespace) -> int:
    """Brings the results of a finished job."""
    with session() as flare:
        status = str(flare.get_job_meta(arguments.job).get("status", ""))
        if not status.startswith(FINISHED):
            emit("error", message=f"job {arguments.job} is {status}: it has no results yet")
            return EXIT_FAILED
        return _bring_results(flare, arguments.job, status, 0)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("wait")
    command.add_argument("--sites", default="")
    command.add_argument("--timeout", type=float, default=90.0)
    command.set_defaults(run=wait)
    command = commands.add_parser("jobs")
    command.add_argument("--limit", type=int, default=20)
    command.set_defaults(run=jobs)
    command = commands.add_parser("submit")
    job_options.add_arguments(command)
    command.set_defaults(run=submit)
    for name, function in (("follow", follow), ("abort", abort), ("results", results)):
        command = commands.add_parser(name)
        command.add_argument("job")
        command.add_argument("--timeout", type=float, default=60.0)
        command.set_defaults(run=function)
    return parser.parse_args()


def main() -> int:
    """Runs one command; its lines go to the real stdout, everything that NVFlare prints to stderr."""
    arguments = parse()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return int(arguments.run(arguments))
    except NoConnection as error:
        emit("error", message=f"the server does not answer: {error}", next="docker compose ps server; docker compose logs server")
        return EXIT_NO_SERVER
    except JobNotFound:
        emit("error", message=f"no job {getattr(arguments, 'job', '')}", next="`make status` lists them")
        return EXIT_FAILED
    except KitError as error:
        emit("error", message=str(error))
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
