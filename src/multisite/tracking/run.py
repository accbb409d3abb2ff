"""One W&B run, and the rows that it is given."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import wandb

from multisite.text import clean
from multisite.tracking.client_log import ClientLog
from multisite.tracking.origin import Account
from multisite.tracking.records import Record, RecordDamaged
from multisite.tracking.troubles import Refusal

STEP = "step"
NUMBER, ATTEMPT = "records/number", "records/attempt"
FIRST_SECONDS = 2.0
SET_ASIDE, DELIVERED = "records/set_aside", "records/delivered"
NAMES_CHARACTERS = 1_000_000  # of all metrics' names of one run together: W&B's client keeps every one in memory
RESERVED = ("_step", "_timestamp", "_runtime", "_wandb", NUMBER, ATTEMPT)


class StreamRefused(Exception):
    """The backend refused rows, and the client sends no more of this run."""


class Run:
    """One W&B run, open."""

    def __init__(self, run: wandb.Run, axes: dict[str, str], attempt: int) -> None:
        self._run = run
        self._axes = axes
        self._attempt = attempt
        self._placed: set[str] = set()  # names whose x axis is settled
        self._names: set[str] = set()
        self._characters = 0
        self.id: str = run.id
        self.stream = ClientLog(Path(run.settings.log_internal))
        self.rows_before = self._rows_before()  # of this attempt, as the backend said when it was opened
        for name in (NUMBER, ATTEMPT):
            run.define_metric(name, hidden=True, step_sync=False)
        for pattern, axis in axes.items():
            run.define_metric(pattern, step_metric=axis, step_sync=False)  # a row has the steps that it was logged with, no other
        # The client's first request is the summary alone. Built while the first row comes, it would have that row's number before the
        # backend has the row: the summary would lie.
        run.summary.update({NUMBER: self.rows_before, ATTEMPT: attempt})
        self.stream.wait_for_first(FIRST_SECONDS)

    def _rows_before(self) -> int:
        """The summary has the number of our last row; the count of all lines, where there is one, has everybody's."""
        number, lines = self._run.summary.get(NUMBER), self._run.starting_step
        if not isinstance(number, (int, float)) or self._run.summary.get(ATTEMPT) != self._attempt:
            return 0
        return min(int(number), lines) if lines else int(number)

    def log(self, record: Record, number: int) -> None:
        """Adds record `number` as one history row. A metric that comes with a step has `step` for its x axis, unless `axes` gives it another.

        Raises:
            RecordDamaged: the client does not take it; there is no row.
        """
        try:
            self._log(record, number)
        except RecordDamaged:
            raise
        except Exception as error:  # the SDK raises a dozen kinds, and what is in a record may be anything
            raise RecordDamaged(clean(f"W&B's client does not take it ({type(error).__name__}: {error})", 200)) from None

    def set_aside(self, number: int) -> None:
        """Adds a row in the place of record `number`, which can't be one.

        Raises:
            Refusal: the run takes no row at all.
        """
        try:
            self._run.log({SET_ASIDE: number, NUMBER: number, ATTEMPT: self._attempt})
        except Exception as error:  # as above
            raise Refusal("connecting", clean(f"the run takes no more rows ({type(error).__name__}: {error})", 200)) from None

    def _log(self, record: Record, number: int) -> None:
        new = record.metrics.keys() - self._names
        characters = self._characters + sum(map(len, new))
        if characters > NAMES_CHARACTERS:
            raise RecordDamaged(f"the names of the run's metrics have more than {NAMES_CHARACTERS} characters")
        row = {(f"metrics/{name}" if name in RESERVED else name): value for name, value in record.metrics.items()}
        if record.step is not None:
            for name in row.keys() - self._placed:
                self._placed.add(name)
                # `define_metric` takes no empty name and reads a star as a pattern; `log` takes both
                if name and "*" not in name and not any(fnmatchcase(name, pattern) for pattern in self._axes):
                    self._run.define_metric(name, step_metric=STEP, step_sync=False)
            row.setdefault(STEP, record.step)  # of two, the metric is what the script means
        row |= {"_timestamp": record.time, NUMBER: number, ATTEMPT: self._attempt}
        self._run.log(row)
        self._names |= new
        self._characters = characters

    def add_model(self, path: Path, job_id: str) -> None:
        """Hands over the final global model as an artifact of this run; it is uploaded when the run finishes."""
        artifact = wandb.Artifact(f"model-{job_id}", type="model", metadata={"job_id": job_id})
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, account: Account, sent: int, exit_code: int) -> None:
        """Puts the account into the summary and ends the run.

        The summary travels behind the rows in one stream: where it has arrived, so have they.

        Args:
            account: the site's.
            sent: rows.
            exit_code: 0, or the run is shown as failed.

        Raises:
            TimeoutError: not everything was sent in time.
            StreamRefused: the backend refused the rest.
        """
        counts = {"logged": account.logged, "received": account.received, "delivered": sent, "refused": account.refused}
        counts["set_aside"] = account.set_aside
        counts["pending"] = max(0, account.logged - sent)
        self._run.summary.update({f"records/{name}": value for name, value in counts.items()})
        self._run.finish(exit_code)
        self.stream.read()
        if self.stream.final:  # the client finishes without an error all the same
            raise StreamRefused(f"HTTP {self.stream.status}")
