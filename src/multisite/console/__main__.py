"""The verbs of the Makefile: `python -m multisite.console VERB`. Standard library only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from multisite.console import cleaning, disk, files, images, kits, metrics, names, report, submit
from multisite.console.deployment import Deployment
from multisite.console.settings import ConsoleError
from multisite.console.text import say, warn
from multisite.job import options as job_options
from multisite.job.options import OptionError

HOME = Path(os.environ.get("MULTISITE_HOME") or Path(__file__).resolve().parents[3])


def up() -> int:
    """Brings the deployment up and shows it."""
    deployment = Deployment.load(HOME)
    answer = deployment.up()
    say(deployment.table(answer))
    return 0


def run_job(client_stream: bool) -> int:
    """`make submit` and `make submit-client-stream`."""
    options = job_options.from_variables(names.given_options(os.environ))
    return submit.submit(Deployment.load(HOME), options, client_stream)


def status() -> int:
    """Participants and jobs."""
    deployment = running()
    lines = deployment.admin("jobs", "--resources")
    answer = next((line for line in lines if line["event"] == "jobs"), None)
    say(deployment.table(answer or {"registered": [], "resources": {}}))
    if answer is None:
        raise ConsoleError("status", lines[0]["message"], "docker compose ps; docker compose logs server")
    rows = [(job["job_id"], job["job_name"], job["status"], job["submit_time"], job["duration"]) for job in answer["jobs"]]
    say("\n" + (report.table(("job", "name", "status", "submitted", "duration"), rows) if rows else "no jobs yet"))
    for text in metrics.status(deployment):
        say(text)
    if text := disk.line(deployment.docker, deployment.settings.path("RESULTS_DIR") or HOME / "results"):
        say(f"\n{text}")
    return 0


def sync() -> int:
    """`make sync`."""
    return metrics.sync(running())


def running() -> Deployment:
    """The deployment, which has to be up.

    Raises:
        ConsoleError: it is not.
    """
    deployment = Deployment.load(HOME)
    if not deployment.docker.running("admin"):
        raise ConsoleError("deployment", "it is not up", "make up")
    return deployment


def job(deployment: Deployment) -> str:
    """JOB=..., or the newest job."""
    if wanted := os.environ.get("JOB"):
        return wanted
    for line in deployment.admin("jobs", "--limit", "1"):
        if line["event"] == "jobs" and line["jobs"]:
            return str(line["jobs"][0]["job_id"])
    raise ConsoleError("job", "there is none yet", "make submit")


def watch(command: str) -> int:
    """`make results` and `make follow`."""
    deployment = running()
    job_id = job(deployment)
    return submit.Following(deployment, job_id=job_id).watch([command, job_id])


def abort() -> int:
    """`make abort`."""
    deployment = running()
    return submit.abort(deployment, job(deployment))


def down() -> int:
    """`make down`."""
    cleaning.down(Deployment.load(HOME))
    return 0


def clean() -> int:
    """`make clean WHAT=...`."""
    cleaning.clean(Deployment.load(HOME), os.environ.get("WHAT", ""))
    return 0


def build_test() -> int:
    """Every image, the one with the development tools included."""
    deployment = Deployment.load(HOME)
    deployment.configure(client_stream=False)
    images.build(deployment.settings, deployment.docker, *images.TEST)
    return 0


def kit() -> int:
    """`make kit SITE=...`."""
    kits.export(running(), os.environ.get("SITE", ""))
    return 0


VERBS = {
    "up": up,
    "submit": lambda: run_job(client_stream=False),
    "submit-client-stream": lambda: run_job(client_stream=True),
    "follow": lambda: watch("follow"),
    "results": lambda: watch("results"),
    "status": status,
    "sync": sync,
    "abort": abort,
    "kit": kit,
    "build-test": build_test,
    "down": down,
    "clean": clean,
}


def main() -> int:
    """Runs one verb; a failed step is a message and exit status 1, a wrong option exit status 2."""
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    if verb not in VERBS:
        warn(f"unknown verb {verb!r}\n  next: one of {', '.join(VERBS)}")
        return 2
    try:
        names.check_given(verb, os.environ)
        os.environ.update(preset := job_options.with_preset(names.given_options(os.environ)))  # Compose reads some of them too
        if names.GIVEN in os.environ:
            os.environ[names.GIVEN] = " ".join({**dict.fromkeys(os.environ[names.GIVEN].split()), **preset})
        return VERBS[verb]()
    except OptionError as error:
        warn(f"options: {error}")
        return 2
    except ConsoleError as error:
        warn(error)
        return 1
    except BrokenPipeError:  # `make submit | head`: nobody reads any more, and a job that runs goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        warn(f"{verb}: {files.problem(error)}\n  next: {files.next_step(error, HOME)}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
