"""One site's part of a job, and the account of its records."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multisite.tracking.damage import kept_text
from multisite.tracking.files import read_json, refused_count, site_status
from multisite.tracking.log_reader import LogReader
from multisite.tracking.records import is_open


@dataclass(frozen=True)
class Account:
    """Records of one site in one job, a record being one call of `log`.

    Attributes:
        logged: on the site's disk.
        received: on the disk of whoever delivers them.
        delivered: confirmed by W&B.
        refused: not taken: the site's disk was full, or the value is no metric.
        closed: the site logs no more.
        set_aside: of the delivered ones, those that could not be sent: a row marks the place of each.
        unconfirmed: of the delivered ones, those of which only the run's summary says so: the backend can't be asked.
        problem: what is wrong with the files that these numbers come from.
    """

    logged: int = 0
    received: int = 0
    delivered: int = 0
    refused: int = 0
    closed: bool = False
    set_aside: int = 0
    unconfirmed: int = 0
    problem: str = ""

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
    def site_json(self) -> Path:
        """The status of the site's log, on the server."""
        return self.folder / "site.json"

    @property
    def refused(self) -> Path:
        """The count of refused metrics."""
        return self.folder / "refused.json"

    def rows(self) -> int:
        """Records in the log here; the lost ones in damaged bytes count too."""
        with self._counting:
            if self._counter is None:
                self._counter = LogReader(self.log)
            return self._counter.count()

    def account(self, run: dict[str, Any]) -> Account:
        """The account, if the writer reports `run` of this site (`files.writer_status`), which may be empty."""
        delivered, aside = int(run.get("delivered", 0)), int(run.get("set_aside", {}).get("count", 0))
        sent = int(run.get("unconfirmed", 0))
        status, problem = read_json(self.site_json, site_status)
        try:
            rows, kept = self.rows(), kept_text(self.log)
            if not status:
                refused, damaged = read_json(self.refused, refused_count)
                problems = "; ".join(part for part in (kept, problem or damaged) if part)
                count, closed = refused.get("count", 0), not is_open(self.log)
                return Account(rows, rows, min(delivered, rows), count, closed, aside, sent, problems)
        except OSError as error:
            return Account(problem=f"{self.log.name} can't be read: {error.strerror}")
        if not status["forwards"]:
            return Account(status["logged"], status["logged"], status["delivered"], status["refused"], status["closed"])
        logged = max(rows, status["logged"])
        return Account(logged, rows, min(delivered, rows), status["refused"], status["closed"], aside, sent, kept)
