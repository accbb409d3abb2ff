"""Who owes the server a result, and whether it can still come: decided from what is known of each site, without I/O.

NVFlare waits for a task's result for as long as it takes, and a round may be long. What tells a long round from a lost one: each site's
job process says every few seconds what it does (`job_state.py`), and each site's node says how its job process ended (`endings.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SILENT_SECONDS = 60.0  # a link that is cut for half a minute, a host that is paused for 50 s: not lost
LOST_SECONDS = 20.0  # after a site says that it has sent its result: longer than the message can be under way
FIRST_SECONDS = 90.0  # from the first task to a site's first report: its process starts, and loads its data
SENDING_SECONDS = 600.0  # 100 MB over 1.4 Mbit/s
PAUSED_SECONDS = 5.0  # between two looks: this process itself did not run, and its sites could not report
NEXT = "next: docker compose ps; docker compose logs"


@dataclass
class Report:
    """What a site last said of its job process.

    Attributes:
        at: when it came, by this machine's clock.
        sending_since: since when it sends a result; None if it does not.
        finished: the task that it sent a result of last, `(name, round)`.
        finished_at: when it said so first.
    """

    at: float
    sending_since: float | None = None
    finished: tuple[str, int] | None = None
    finished_at: float = 0.0


class SiteWatch:
    """One job's sites. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, reports: bool = True) -> None:
        """
        Args:
            clock: seconds.
            reports: whether the sites of this job report (`job_state.py`).
        """
        self._clock, self._expects_reports = clock, reports
        self._lock = threading.Lock()
        self._task: tuple[str, int] = ("", 0)
        self._owing: set[str] = set()
        self._reports: dict[str, Report] = {}
        self._ended: dict[str, str] = {}
        self._looked = clock()
        self._first_sent: float | None = None

    def sent(self, task: str, round_: int, sites: Iterable[str]) -> None:
        """A task goes to these sites; they owe a result from now on."""
        with self._lock:
            self._task, self._owing = (task, round_), set(sites)
            self._first_sent = self._first_sent or self._clock()

    def answered(self, site: str) -> None:
        """A site's result is here, whatever it is worth."""
        with self._lock:
            self._owing.discard(site)

    def owing(self) -> list[str]:
        """The sites whose result is not here."""
        with self._lock:
            return sorted(self._owing)

    def reported(self, site: str, state: str, task: str, round_: int) -> None:
        """A site's report.

        Args:
            site: its authenticated name.
            state: `working`, `sending`, or `idle`.
            task, round_: of the task that it sent a result of last.
        """
        with self._lock:
            now = self._clock()
            report = self._reports.setdefault(site, Report(now))
            report.at = now
            if state != "sending":
                report.sending_since = None
            elif report.sending_since is None:
                report.sending_since = now
            if report.finished != (task, round_):
                report.finished, report.finished_at = (task, round_), now

    def ended(self, site: str, reason: str) -> None:
        """A site's job process has ended."""
        with self._lock:
            self._ended.setdefault(site, reason)

    def problems(self) -> dict[str, str]:
        """The sites whose result can't come any more, with the reason. To be called about every second."""
        with self._lock:
            now = self._clock()
            if now - self._looked > PAUSED_SECONDS:
                for report in self._reports.values():
                    report.at += now - self._looked
                self._first_sent = now if self._first_sent is not None else None
            self._looked = now
            found = {site: self._problem(site) for site in self._owing}
        return {site: reason for site, reason in sorted(found.items()) if reason}

    def _problem(self, site: str) -> str:
        if site in self._ended:
            return self._ended[site]
        report = self._reports.get(site)
        now = self._clock()
        if report is None:
            late = self._expects_reports and self._first_sent is not None and now - self._first_sent > FIRST_SECONDS
            return f"its job process has not begun to report within {FIRST_SECONDS:.0f} s; {NEXT}" if late else ""
        if now - report.at > SILENT_SECONDS:
            return f"its job process has not reported for {SILENT_SECONDS:.0f} s: it was stopped, frozen or cut off; {NEXT}"
        if report.finished == self._task and now - report.finished_at > LOST_SECONDS:
            return "it has sent a result, and none came"
        if report.sending_since is not None and now - report.sending_since > SENDING_SECONDS:
            return f"it has tried to send its result for {SENDING_SECONDS / 60:.0f} min; next: its link, and MAX_RESULT_MB there and here"
        return ""
