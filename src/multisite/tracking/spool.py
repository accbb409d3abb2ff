"""Where metrics are kept, on a site and on the server, and the account of them.

    <spool>/<job>/job.json            how the job's metrics go to W&B; only where they are delivered from
    <spool>/<job>/writer.json         what the W&B writer last said of itself
    <spool>/<job>/<site>/records.log  the records; on the server a copy, whose first bytes are the site's
    <spool>/<job>/<site>/site.json    on the server: what the site last said of its log
    <spool>/<job>/<site>/refused.json records that the disk did not take
    <spool>/sync                      touched by `make sync`: try again now

Each file has one writer. JSON files are replaced as a whole, so whoever reads one sees one state.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multisite.tracking.records import LogReader, is_open

ROOT_VARIABLE = "MULTISITE_SPOOL"
JOB_VARIABLE = "MULTISITE_JOB"
SERVER = "server"
HOPELESS = ("offline", "refused", "unreachable")  # states of a writer that nobody waits for
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def root(workspace: str | Path) -> Path:
    """The spool of this machine: MULTISITE_SPOOL, or `spool` in NVFlare's workspace."""
    return Path(os.environ.get(ROOT_VARIABLE) or Path(workspace) / "spool")


def job_name(nvflare_id: str) -> str:
    """The job's id here: NVFlare's, or MULTISITE_JOB, for the simulator calls every job the same."""
    return os.environ.get(JOB_VARIABLE) or nvflare_id


def save_json(path: Path, content: Any) -> None:
    """Replaces `path`; the last of several that write at the same time wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)


def load_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Account:
    """Records of one site in one job, a record being one call of `log`.

    Attributes:
        logged: on the site's disk.
        received: on the disk of whoever delivers them.
        delivered: confirmed by W&B.
        refused: not taken by the site's disk.
        closed: the site logs no more.
    """

    logged: int = 0
    received: int = 0
    delivered: int = 0
    refused: int = 0
    closed: bool = False

    @property
    def pending(self) -> int:
        """Logged and not delivered."""
        return max(0, self.logged - self.delivered)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "pending": self.pending}


@dataclass
class Origin:
    """One site's part of a job (or the server's own)."""

    folder: Path
    _counter: LogReader | None = field(default=None, repr=False)
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)  # forwarder and delivery share one

    @property
    def name(self) -> str:
        """The site's."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """The record log."""
        return self.folder / "records.log"

    @property
    def told(self) -> Path:
        """What the site said, on the server."""
        return self.folder / "site.json"

    @property
    def refused(self) -> Path:
        """Count and reason of the refused records."""
        return self.folder / "refused.json"

    def rows(self) -> int:
        """Records in the log here."""
        with self._counting:
            if self._counter is None:
                self._counter = LogReader(self.log)
            return self._counter.count()

    def account(self, delivered: int) -> Account:
        """The account, if `delivered` rows were confirmed from here."""
        rows = self.rows()
        told = load_json(self.told)
        if not told:
            refused = int(load_json(self.refused).get("count", 0))
            return Account(rows, rows, min(delivered, rows), refused, not is_open(self.log))
        received = rows if told.get("forwards", True) else int(told.get("logged", 0))
        confirmed = min(delivered, rows) if told.get("forwards", True) else int(told.get("delivered", 0))
        logged = max(rows, int(told.get("logged", 0)))
        return Account(logged, received, confirmed, int(told.get("refused", 0)), bool(told.get("closed")))


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
        """The W&B writer's word: `state`, `reason`, `runs` (by site: id, delivered)."""
        return self.folder / "writer.json"

    @property
    def settings(self) -> dict[str, Any]:
        """Empty where the job's metrics are not delivered from."""
        return load_json(self.settings_file)

    def origins(self) -> list[Origin]:
        """Every site that has logged, by name."""
        for entry in _folders(self.folder):
            if entry.name not in self._origins and (entry / "records.log").exists() | (entry / "site.json").exists():
                self._origins[entry.name] = Origin(entry)
        return [self._origins[name] for name in sorted(self._origins)]

    def signature(self) -> tuple[float, ...]:
        """Changes when a site appears or a log grows. Cheap: it is asked of every job that is kept, twice a second."""
        return (_changed(self.folder), *(_size(origin.log) for origin in self._origins.values()))

    def origin(self, name: str) -> Origin:
        """One site's part, which need not exist yet.

        Raises:
            ValueError: no site has such a name.
        """
        return Origin(self.folder / checked_name(name))

    def delivered(self) -> dict[str, int]:
        """Rows that W&B confirmed, by site, of those that are delivered from here."""
        return {site: int(run.get("delivered", 0)) for site, run in load_json(self.writer_file).get("runs", {}).items()}

    def accounts(self) -> dict[str, Account]:
        """The account of every site, by name."""
        delivered = self.delivered()
        return {origin.name: origin.account(delivered.get(origin.name, 0)) for origin in self.origins()}

    def is_over(self) -> bool:
        """Whether the process that owns the job here has ended."""
        owner = self.settings.get("owner", "")
        return not (owner and is_open(self.origin(owner).log))

    def report(self) -> dict[str, Any]:
        """For people: `state` and `reason` of the writer, `sites` (the accounts), `pending` in all."""
        accounts, delivers = self.accounts(), bool(self.settings)
        writer = load_json(self.writer_file) if delivers else self._word_of_sites()
        return {
            "job_id": self.id,
            "delivers": delivers,
            "state": writer.get("state", ""),
            "reason": writer.get("reason", ""),
            "sites": {name: account.as_dict() for name, account in accounts.items()},
            "pending": sum(account.pending for account in accounts.values()),
        }

    def _word_of_sites(self) -> dict[str, Any]:
        """What the writers on the sites said of themselves: the first trouble, if there is one."""
        words = [(origin.name, load_json(origin.told)) for origin in self.origins()]
        for site, word in words:
            if word.get("state") in HOPELESS:
                return {"state": word["state"], "reason": f"{site}: {word.get('reason', '')}"}
        site, word = words[0] if words else ("", {})
        reason = f"{site}: {word['reason']}" if word.get("reason") else ""
        return {"state": word.get("state", ""), "reason": reason} if words else {}


@dataclass
class Spool:
    """Everything that this machine keeps."""

    root: Path
    _jobs: dict[str, Job] = field(default_factory=dict, repr=False)

    def jobs(self) -> Iterator[Job]:
        """Every job, in no order."""
        folders = {folder.name: folder for folder in _folders(self.root)}
        for gone in set(self._jobs) - set(folders):
            del self._jobs[gone]
        for name, folder in folders.items():
            yield self._jobs.setdefault(name, Job(folder))

    def job(self, job_id: str) -> Job:
        """One job, which need not exist yet.

        Raises:
            ValueError: no job has such an id.
        """
        return self._jobs.setdefault(checked_name(job_id), Job(self.root / job_id))

    @property
    def sync_file(self) -> Path:
        """Its time of change is the last request to try again now."""
        return self.root / "sync"

    def sync_requested(self) -> float:
        """When somebody last asked to try again now; 0 if nobody did."""
        return _changed(self.sync_file)

    @property
    def agent_lock(self) -> Path:
        """Locked by the process that delivers from this spool."""
        return self.root / "agent.lock"


def checked_name(name: str) -> str:
    """`name`, if it is one that a job or a site can have: it becomes a folder's.

    Raises:
        ValueError: it is not.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a job or a site")
    return name


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir() and NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
