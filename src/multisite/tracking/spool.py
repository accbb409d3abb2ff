"""Where metrics are kept, on a site and on the server, and the account of them.

    <spool>/<job>/job.json            how the job's metrics go to W&B; only where they are delivered from
    <spool>/<job>/writer.json         the W&B writer's last status
    <spool>/<job>/<site>/records.log  the records; on the server a copy, whose first bytes are the site's
    <spool>/<job>/<site>/records.log.damaged  what an earlier version kept of a damaged log; reported, and never freed
    <spool>/<job>/<site>/site.json    on the server: the last status of the site's log
    <spool>/<job>/<site>/refused.json metrics that were not taken: the disk was full, or the value is no metric
    <spool>/<job>/model.safetensors   the final global model, until W&B has it
    <spool>/<job>/writer.lock         held by the job's W&B writer while it runs
    <spool>/agent.lock                held by whoever delivers from this spool
    <spool>/sync                      touched by `make sync`: try again now
    <spool>/freed.json                on the server: delivered jobs whose records were deleted, for sites that come back later
    <spool>/refusals.json             on the server: what was refused of whom, see `multisite.tracking.intake`

Each file has one writer. JSON files are replaced as a whole, so whoever reads one sees one state. A file that is not what it must be
is set aside: its site or job is reported with the reason, and every other goes on.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multisite.tracking.arguments import checked_settings
from multisite.tracking.files import (
    changed_at,
    checked_name,
    folders,
    load_json,
    read_json,
    save_json,
    site_status,
    size_of,
    writer_status,
)
from multisite.tracking.origin import Account, Origin
from multisite.tracking.records import is_open

ROOT_VARIABLE = "MULTISITE_SPOOL"
JOB_VARIABLE = "MULTISITE_JOB"
SIMULATION_VARIABLE = "MULTISITE_SIMULATION"
SIMULATED = "simulate_job"  # every job's id in NVFlare's simulator (`nvflare/private/fed/simulator/simulator_const.py`)
SERVER = "server"
CLOCK_SECONDS = 1.0  # what a file system may round a time of change by
# By how the job ended. 255 is what W&B's client gives a run that somebody interrupts (`wandb/sdk/lib/exit_hooks.py`).
EXIT_CODES = {"completed": 0, "failed": 1, "": 1, "aborted": 255}
BLOCKED = ("offline", "refused", "unreachable", "misconfigured")  # states in which a writer delivers nothing until somebody acts


def root(workspace: str | Path) -> Path:
    """The spool of this machine: MULTISITE_SPOOL, or `spool` in NVFlare's workspace."""
    return Path(os.environ.get(ROOT_VARIABLE) or Path(workspace) / "spool")


def name_simulation() -> None:
    """Gives the simulation that begins in this process an id of its own, which the processes that it starts inherit."""
    os.environ[SIMULATION_VARIABLE] = f"simulation-{uuid.uuid4().hex[:12]}"


def job_name(nvflare_id: str) -> str:
    """The job's id here: NVFlare's, or MULTISITE_JOB. NVFlare's simulator calls every job the same: see `name_simulation`."""
    simulated = os.environ.get(SIMULATION_VARIABLE, "") if nvflare_id == SIMULATED else ""
    return os.environ.get(JOB_VARIABLE) or simulated or nvflare_id


@dataclass
class Job:
    """One job's part of the spool."""

    folder: Path
    _origins: dict[str, Origin] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """NVFlare's job id."""
        return self.folder.name

    @property
    def settings_file(self) -> Path:
        """How the metrics go to W&B: `wandb` (arguments of wandb.init), `axes`, `owner` (whose log's end is the job's end)."""
        return self.folder / "job.json"

    @property
    def writer_file(self) -> Path:
        """The W&B writer's status: `state`, `reason`, `runs` (by site: id, delivered)."""
        return self.folder / "writer.json"

    @property
    def model_file(self) -> Path:
        """The final global model, where the job wants it kept as an artifact."""
        return self.folder / "model.safetensors"

    def has_model(self) -> bool:
        """Whether that file is here, and no link."""
        return self.model_file.is_file() and not self.model_file.is_symlink()

    @property
    def settings(self) -> dict[str, Any]:
        """Empty where the job's metrics are not delivered from, or can't be."""
        return self.read_settings()[0]

    def read_settings(self) -> tuple[dict[str, Any], str]:
        """The settings, and what is wrong with their file."""
        return read_json(self.settings_file, checked_settings)

    def writer_status(self) -> dict[str, Any]:
        """The writer's last status; empty where there is none, or none that can be read."""
        return read_json(self.writer_file, writer_status)[0]

    def runs(self) -> dict[str, dict[str, Any]]:
        """What the writer reports of each site's run, see `files.writer_status`."""
        return dict(self.writer_status().get("runs", {}))

    def origins(self) -> list[Origin]:
        """Every site that has logged, by name."""
        for entry in folders(self.folder):
            if entry.name not in self._origins and (entry / "records.log").exists() | (entry / "site.json").exists():
                self._origins[entry.name] = Origin(entry)
        return [self._origins[name] for name in sorted(self._origins)]

    def signature(self) -> tuple[float, ...]:
        """Changes when a site appears or a log grows. Cheap: it is asked of every job that is kept, twice a second."""
        return (changed_at(self.folder), *self.log_sizes())

    def log_sizes(self) -> tuple[int, ...]:
        """Bytes of the log of every site that is known so far."""
        return tuple(size_of(origin.log) for origin in self._origins.values())

    def origin(self, name: str) -> Origin:
        """One site's part, which need not exist yet.

        Raises:
            ValueError: no site has such a name.
        """
        return Origin(self.folder / checked_name(name))

    def delivered(self) -> dict[str, int]:
        """Rows that W&B confirmed, by site, of those that are delivered from here."""
        return {site: int(run["delivered"]) for site, run in self.runs().items()}

    def accounts(self) -> dict[str, Account]:
        """The account of every site, by name."""
        runs = self.runs()
        return {origin.name: origin.account(runs.get(origin.name, {})) for origin in self.origins()}

    def is_over(self) -> bool:
        """Whether the process that owns the job here has ended."""
        owner = self.settings.get("owner", "")
        return not (owner and is_open(self.origin(owner).log))

    def is_unfinished(self) -> bool:
        """Whether a run, or the model, is to be finished when the job is over."""
        return self.has_model() or any(run.get("unfinished") for run in self.runs().values())

    def exit_code(self) -> int:
        """How the job ended, as an exit status. A job that left no word died."""
        return EXIT_CODES[self.settings.get("ended", "")]

    def note_end(self, ended: str, log: logging.Logger) -> None:
        """Writes into the settings how the job ended, before its log is closed. On a full disk only `log` says so."""
        settings = load_json(self.settings_file)
        try:
            if settings:
                save_json(self.settings_file, {**settings, "ended": ended}, durable=True)
        except OSError as error:
            log.error(f"how the job ended is not known to W&B: {self.settings_file}: {error.strerror}")

    def report(self) -> dict[str, Any]:
        """For people: `state` and `reason` of the writer, `sites` (the accounts), `pending` in all, `unfinished`, `problems`."""
        accounts = self.accounts()
        settings, misconfigured = self.read_settings()
        status, damaged = read_json(self.writer_file, writer_status)
        writer = status if settings or misconfigured else self._status_of_sites()
        if misconfigured:
            writer = {"state": "misconfigured", "reason": misconfigured}
        problems = [f"{name}: {account.problem}" for name, account in accounts.items() if account.problem]
        return {
            "job_id": self.id,
            "delivers": bool(settings or misconfigured),
            "state": writer.get("state", ""),
            "reason": writer.get("reason", ""),
            "sites": {name: account.as_dict() for name, account in accounts.items()},
            "pending": sum(account.pending for account in accounts.values()),
            "unfinished": bool(settings) and self.is_over() and self.is_unfinished(),
            "problems": [problem for problem in (misconfigured, damaged, *problems) if problem],
        }

    def _status_of_sites(self) -> dict[str, Any]:
        """Of the writers on the sites: the first trouble, or else the first note, if there is one."""
        statuses = [(origin.name, read_json(origin.site_json, site_status)[0]) for origin in self.origins()]
        trouble = [(site, status) for site, status in statuses if status.get("state") in BLOCKED]
        noted = [(site, status) for site, status in statuses if status.get("reason")]
        site, status = [*trouble, *noted, *statuses, ("", {})][0]
        return {"state": status.get("state", ""), "reason": f"{site}: {status['reason']}" if status.get("reason") else ""}


@dataclass
class Spool:
    """Everything that this machine keeps."""

    root: Path
    changed: set[str] = field(default_factory=set, repr=False)  # ids of jobs whose files this process has changed
    _jobs: dict[str, Job] = field(default_factory=dict, repr=False)
    _listed: tuple[float, float, list[Job]] = field(default=(0.0, 0.0, []), repr=False)  # its time of change, when, what

    def jobs(self) -> list[Job]:
        """Every job, in no order. Their folder is read again when it has changed."""
        changed, (listed, when, jobs) = changed_at(self.root), self._listed
        if changed != listed or when - changed < CLOCK_SECONDS:
            now = time.time()
            found = {folder.name: folder for folder in folders(self.root)}
            for gone in set(self._jobs) - set(found):
                del self._jobs[gone]
            jobs = [self._jobs.setdefault(name, Job(folder)) for name, folder in found.items()]
            self._listed = changed, now, jobs
        return jobs

    def job(self, job_id: str) -> Job:
        """One job, which need not exist yet.

        Raises:
            ValueError: no job has such an id.
        """
        return self._jobs.setdefault(checked_name(job_id), Job(self.root / job_id))

    @property
    def freed_file(self) -> Path:
        """The delivered jobs whose records were deleted: by job and site, how many rows W&B confirmed."""
        return self.root / "freed.json"

    @property
    def refusals_file(self) -> Path:
        """What was refused of whom."""
        return self.root / "refusals.json"

    @property
    def sync_file(self) -> Path:
        """Its time of change is the last request to try again now."""
        return self.root / "sync"

    def sync_requested(self) -> float:
        """When somebody last asked to try again now; 0 if nobody did."""
        return changed_at(self.sync_file)

    @property
    def agent_lock(self) -> Path:
        """Locked by the process that delivers from this spool."""
        return self.root / "agent.lock"
