"""`make submit`: the job's progress, Ctrl-C, its table and its results."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from multisite.console import report, results
from multisite.console.admin import COMMAND_LINE
from multisite.console.deployment import Deployment, dataset
from multisite.console.settings import ConsoleError
from multisite.console.text import ask, objects, say
from multisite.job import outcome
from multisite.job.options import UNKNOWN, JobOptions
from multisite.job.participants import draw
from multisite.text import clean

RUNNING = "RUNNING"
COMPLETED = "FINISHED:COMPLETED"
QUIET_SECONDS = 180.0  # without a line from the admin, which says every 20 s that the server has the job running: it hangs
OTHER_SECONDS = 900.0  # the same before the job runs, and while its results are fetched
ADMIN_SECONDS = 120  # for a server that has gone to be back
NEXT_STEPS = {
    "ShardError": "`make up` with the job's ALPHA and SEED prepares the shards",
    "OutOfMemoryError": "a smaller BATCH_SIZE, or more SITE_MEMORY in .env",
}


class Interrupted(Exception):
    """Ctrl-C."""


class ServerGone(ConsoleError):
    """The server does not answer."""


class AdminStream:
    """Lines of a long command in the admin container, read beside the terminal's signals."""

    def __init__(self, deployment: Deployment, arguments: list[str]) -> None:
        command = ["docker", *deployment.docker.exec_arguments("admin", *COMMAND_LINE, *arguments)]
        # A session of its own: Ctrl-C reaches this console, which asks, and not the command.
        self.process = subprocess.Popen(
            command, cwd=deployment.settings.home, env=deployment.docker.env(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
        self.errors: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors = [*self.errors[-19:], clean(line)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return events(self._lines)

    def close(self) -> None:
        """Ends the command, if it has not ended."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)


def events(lines: queue.Queue[str | None]) -> Iterator[dict[str, Any]]:
    """What the admin says, until it has no more to say.

    Raises:
        ConsoleError: it said nothing for longer than an admin that works does, however long a round is.
    """
    patience = OTHER_SECONDS
    while True:
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            raise ConsoleError(
                "submit",
                f"nothing new from the admin for {patience:.0f} s; the job may go on",
                "make status; if that hangs too: docker compose restart admin",
            ) from None
        if line is None:
            return
        for event in objects(line):
            if event["event"] == "status":
                patience = QUIET_SECONDS if event["status"] == RUNNING else OTHER_SECONDS
            yield event


@dataclasses.dataclass
class Following:
    """A job that is being watched."""

    deployment: Deployment
    job_id: str = ""
    rounds: int = 0
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    started: float = 0.0

    def watch(self, arguments: list[str]) -> int:
        """Runs `admin.command_line` with `arguments` and shows what it reports.

        Returns:
            0 if the job completed, 1 if it failed, 130 if the person left it running or aborted it.
        """
        previous = signal.signal(signal.SIGINT, _interrupt)
        try:
            try:
                return self._watch(arguments)
            except ServerGone as gone:
                if not self.job_id:
                    raise
                say(
                    f"{gone}\njob {self.job_id} may be lost: waiting up to {ADMIN_SECONDS} s for the server, to see what became of it"
                )
            return self._watch(["follow", self.job_id, "--timeout", str(ADMIN_SECONDS)])
        except Interrupted:
            return self._ask()
        finally:
            signal.signal(signal.SIGINT, previous)

    def _watch(self, arguments: list[str]) -> int:
        stream = AdminStream(self.deployment, arguments)
        try:
            for line in stream:
                if line["event"] == "finished":
                    return self._finish(line)
                self._show(line)
            raise ConsoleError("submit", "; ".join(stream.errors[-3:]) or "the admin's command ended early", "make status")
        finally:
            stream.close()

    def _show(self, line: dict[str, Any]) -> None:
        if line["event"] == "error":
            problem = ServerGone if line.get("no_server") else ConsoleError
            raise problem("submit", line["message"], line.get("next", "make status"))
        if line["event"] == "submitted":
            self.job_id, self.rounds = line["job_id"], line["rounds"]
            say(f"job {self.job_id} submitted: {self.rounds} rounds on {', '.join(line['sites'])}")
        elif line["event"] == "status":
            say(f"job is {line['status']}")
        elif line["event"] == "report" and line["row"] not in self.rows:  # followed again, it begins at the first round
            self.rows.append(line["row"])
            self.started = line["started"]
            say(report.progress_line(line["row"], line["rounds"], max(0.0, time.time() - self.started)))

    def _finish(self, line: dict[str, Any]) -> int:
        job_id, status = line["job_id"], line["status"]
        try:
            folder = results.bring(self.deployment, job_id)
        except Interrupted:
            say(f"interrupted while the results came: job {job_id} is {status}. `make results JOB={job_id}` brings them.")
            return 130
        say("")
        if self.rows:
            say(report.summary(self.rows) + "\n")
        for text in outcome.lines(line.get("final"), line.get("best"), report.datasets(self.rows)):
            say(text)
        for text in report.account_lines(line["tracking"]):
            say(text)
        say(f"results: {folder}")
        if status == COMPLETED:
            say(f"job {job_id} completed")
            return 0
        say(f"job {job_id} did not complete: {status}")
        for site, error in sorted(line["errors"].items()):
            say(f"  {site}: {error}")
            name = error.split(":")[0]
            if name in NEXT_STEPS and "next:" not in error:
                say(f"  next: {NEXT_STEPS[name]}")
        for detail in line["meta"].get("job_deploy_detail") or []:
            if ": OK" not in str(detail):
                say(f"  {detail}")
        if not line["errors"]:
            say(f"  next: read {folder}/logs, and: docker compose logs")
        return 1

    def _ask(self) -> int:
        """Ctrl-C: leave the job running, or abort it. Without a terminal it is left running."""
        if not self.job_id:
            say("interrupted before the job was submitted; `make status` shows whether it was")
            return 130
        answer = ""
        if sys.stdin.isatty():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            answer = ask(f"\njob {self.job_id} is running. [l]eave it running, or [a]bort it? ")
        if answer.startswith("a"):
            return abort(self.deployment, self.job_id) or 130
        say(f"job {self.job_id} goes on. `make follow JOB={self.job_id}` watches it, `make abort JOB={self.job_id}` ends it.")
        return 130


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def submit(deployment: Deployment, options: JobOptions, client_stream: bool) -> int:
    """Brings the deployment up in the asked-for mode, submits, follows, and brings the results.

    Returns:
        0 only if the job completed.

    Raises:
        ConsoleError: a step failed.
    """
    answer = deployment.up(client_stream)
    say(deployment.table(answer))
    if deployment.settings.get("ALLOW_CUSTOM_CODE") == "yes":
        key = " and the W&B key" if client_stream else ""
        say(
            f"\nALLOW_CUSTOM_CODE=yes: code of a job runs as the site's user here, and can read the site's private key, its data{key}"
        )
    if not os.environ.get("SITES"):
        options = dataclasses.replace(options, sites=len(answer["registered"]))
    sites = draw(answer["registered"], options.sites, options.seed)
    data = dataset(answer["resources"], sites, options.alpha, options.seed)
    if data == "synthetic":
        say("\nSYNTHETIC DATA STANDS IN FOR CIFAR-10: set CIFAR10_DIR to a local copy for a real result")
    elif data == UNKNOWN:
        say("\ndataset: unknown, for not every site of this job has said what its shard holds; next: make status")
    options = dataclasses.replace(options, dataset=data, streamed_to_server=not client_stream, streamed_to_clients=client_stream)
    say("")
    return Following(deployment).watch(["submit", *options.as_arguments(), "--on", ",".join(sites)])


def abort(deployment: Deployment, job_id: str) -> int:
    """Aborts a job and says what became of it."""
    for line in deployment.admin("abort", job_id):
        if line["event"] == "error":
            raise ConsoleError("abort", line["message"], line.get("next", "make status"))
        say(f"job {job_id} is {line['status']}")
        return 0 if line["status"].startswith("FINISHED") else 1
    return 1
