"""The runs of one job's sites at the backend: opened, asked what they have, finished and opened again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from multisite.tracking.backend import FINISH_SECONDS, Backend, Place
from multisite.tracking.client_log import LIMITED, TOO_LARGE
from multisite.tracking.model_upload import finish_seconds
from multisite.tracking.run import Run, StreamRefused
from multisite.tracking.site_run import SiteRun
from multisite.tracking.spool import Job
from multisite.tracking.troubles import Refusal, status_refusal

WINDOW_ROWS = 40_000  # sent and not confirmed, over all runs: what bounds the memory; every site has an equal share
WINDOW_BYTES = 64_000_000  # likewise
CONFIRM_SECONDS = 5.0
STALL_SECONDS = 30.0
STILL_SECONDS = 12.0  # W&B counts rows up to 10 s late: so long a count must stand still, and the end waits for it at most
LOOK_SECONDS = 1.0  # between two looks at such a count
CLOSING_RUNS = 16  # at a time


class SiteRuns:
    """Every site's run of one job. One that can't be opened, or stands still, waits by itself: the others go on."""

    def __init__(self, job: Job, changed: Callable[[], None]) -> None:
        """
        Args:
            job: whose.
            changed: writes the writer's file: before a row is sent, and before the backend may confirm one, that the next writer must
                know of.
        """
        self._job = job
        self._changed = changed
        self._pool = ThreadPoolExecutor(max_workers=CLOSING_RUNS)
        self._asked_at = 0.0
        self.trouble: Refusal | None = None  # why the backend did not answer when it was asked last what it has
        status = job.writer_status()
        done = status.get("state") == "done"
        self.by_site = {site: SiteRun(job.origin(site), run, done) for site, run in status.get("runs", {}).items()}

    def of(self, site: str) -> SiteRun:
        """One site's."""
        return self.by_site.setdefault(site, SiteRun(self._job.origin(site)))

    def is_full(self, site_run: SiteRun) -> bool:
        """Whether as much of a site's is on its way as may be."""
        if site_run.batch_bytes:
            return site_run.outstanding > 0
        sites = len(self.by_site)
        return site_run.outstanding >= WINDOW_ROWS // sites or site_run.outstanding_bytes >= WINDOW_BYTES // sites

    @property
    def outstanding(self) -> int:
        """Rows of all sites that were sent and are not confirmed."""
        return sum(site_run.outstanding for site_run in self.by_site.values())

    def closing(self) -> list[SiteRun]:
        """The ones that are being finished."""
        return [site_run for site_run in self.by_site.values() if site_run.closing]

    def unsettled(self) -> bool:
        """Whether a site's log has more, or its run is being closed, or waits for a rate limit's end; without those in trouble."""
        site_runs = [self.of(origin.name) for origin in self._job.origins()]
        return any(site_run.closing or site_run.limited or (site_run.waiting and not site_run.trouble) for site_run in site_runs)

    def has_unsent(self) -> bool:
        """Whether a site's log has more; without those in trouble."""
        return any(site_run.reader.unread and not site_run.trouble for site_run in self.by_site.values())

    def troubled(self) -> SiteRun | None:
        """The first one in trouble."""
        return next((site_run for site_run in self.by_site.values() if site_run.trouble), None)

    def check_goes_on(self) -> None:
        """
        Raises:
            Refusal: sites are in trouble, and none goes on.
        """
        troubled = self.troubled()
        if troubled is not None and not any(site_run.goes_on for site_run in self.by_site.values()):
            assert troubled.trouble is not None
            raise troubled.trouble

    def note(self, site_run: SiteRun, again: bool = False) -> None:
        """Writes what is wrong with a site; says it the first time."""
        if not again:
            print(f"W&B, job {self._job.id}: {site_run.note}", flush=True)
        self._changed()

    def has_run(self, backend: Backend, site_run: SiteRun) -> bool:
        """Whether the site's run is open, or could be opened. One that can't be is tried again after a pause.

        Raises:
            Refusal: the backend does not answer.
        """
        if site_run.run is not None:
            return True
        if site_run.closing is not None or time.monotonic() < site_run.retry_at:
            return False
        name = site_run.origin.name
        known = backend.places([name])
        place = known.get(name, Place())
        if site_run.id and not site_run.stands_still(place, STILL_SECONDS):
            site_run.retry_at = time.monotonic() + LOOK_SECONDS
            return False
        try:
            self._open(backend, site_run, place, known=name in known)
        except Refusal as refusal:
            again = str(refusal) == str(site_run.trouble)
            site_run.wait_by_itself(refusal)
            self.note(site_run, again)
            return False
        self._changed()
        return True

    def _open(self, backend: Backend, site_run: SiteRun, place: Place, known: bool) -> None:
        name, rows = site_run.origin.name, backend.records_in(place)
        asked = backend.can_be_asked and not site_run.unconfirmed
        if asked and known and rows < site_run.confirmed:
            raise Refusal("connecting", f"{backend.host} has {rows} rows of {name}, fewer than it confirmed")
        # a run that is opened for the model alone has the time that its size needs
        seconds = finish_seconds(self._job) if site_run.reopens else FINISH_SECONDS
        run = backend.open(name, known or bool(site_run.id), seconds)
        if not asked or (site_run.id and known and not place.lines):  # then the backend's answer to the client is all that there is
            rows = site_run.unconfirmed = max(rows, site_run.confirmed, run.rows_before)
        site_run.opened(run, rows)

    def ask(self, backend: Backend) -> bool:
        """Asks the backend what it has, now and then. Returns whether that was more than before."""
        waited_for = self.closing() or any(map(self.is_full, self.by_site.values()))
        pause = LOOK_SECONDS if waited_for else CONFIRM_SECONDS
        if not self.outstanding or time.monotonic() - self._asked_at < pause:
            return False
        self._asked_at = time.monotonic()
        asked = [site for site, site_run in self.by_site.items() if site_run.run or site_run.closing]
        try:
            places = backend.places(asked)
        except Refusal as refusal:
            self.trouble = refusal
            return False
        self.trouble = None
        more = [self.by_site[site].count(place, backend.records_in(place)) for site, place in places.items()]
        self._changed()
        return any(more)

    def close_stalled(self, backend: Backend) -> None:
        """Closes the runs that stand still; where the backend can't be asked, those whose part of the window is full.

        Where W&B's client waits for the end of a rate limit the run stays open: the next one would not know when that is.
        """
        now = time.monotonic()
        for site_run in self.by_site.values():
            if not site_run.outstanding:
                site_run.progress = now
            if site_run.run is None:
                continue
            site_run.run.stream.read()
            stalled = now - site_run.progress > STALL_SECONDS + backend.interval
            if site_run.outstanding and site_run.run.stream.limited:
                self._wait_for_limit(backend, site_run)
            elif site_run.outstanding and (site_run.run.stream.final or (stalled and backend.can_be_asked)):
                site_run.trouble = self._stall(backend, site_run)
                self.close(backend, site_run, 0)
                self.note(site_run)
            elif not backend.can_be_asked and self.is_full(site_run):
                self.close(backend, site_run, 0)
            elif site_run.limited:
                site_run.limited, site_run.trouble = False, None
                self._changed()

    def _wait_for_limit(self, backend: Backend, site_run: SiteRun) -> None:
        site_run.progress = time.monotonic()
        if not site_run.limited:
            site_run.limited, site_run.trouble = True, status_refusal(backend.host, LIMITED)
            self.note(site_run)

    @staticmethod
    def _stall(backend: Backend, site_run: SiteRun) -> Refusal:
        """Why a run stands still."""
        if site_run.stream is not None and site_run.stream.status:
            return status_refusal(backend.host, site_run.stream.status)
        return Refusal("stalled", f"{backend.host} has confirmed no row for {STALL_SECONDS + backend.interval:.0f} s")

    def stalled(self) -> Refusal | None:
        """Why nothing moves; None while any site's run is open."""
        troubles = [site_run.trouble for site_run in self.closing() if site_run.trouble]
        return troubles[0] if troubles and not any(site_run.run for site_run in self.by_site.values()) else None

    def close(self, backend: Backend, site_run: SiteRun, exit_code: int) -> None:
        """Begins to finish a run, with the account in its summary.

        Where the backend can't be asked the run is opened once more: then it says what it has.
        """
        site, sent = site_run.origin.name, site_run.reader.rows
        account = self._job.accounts()[site]

        def finish(run: Run) -> int:
            try:
                run.finish(account, sent, exit_code)
            except StreamRefused:
                if backend.can_be_asked:
                    raise
            if backend.can_be_asked:
                return 0
            again = backend.open(site, known=True)
            again.finish(account, sent, exit_code)
            return again.rows_before

        site_run.close(self._pool, finish)

    def take_closed(self, backend: Backend) -> None:
        """Looks after the runs that are being closed: of each it becomes clear what has arrived, or that not all has in time."""
        for site_run in self.closing():
            assert site_run.closing is not None
            if not site_run.closing.done():
                continue
            site_run.closed_at = site_run.closed_at or time.monotonic()
            if site_run.stream is not None:
                site_run.stream.read()
            late = time.monotonic() - site_run.closed_at > STILL_SECONDS
            if site_run.closing.exception() is None:  # it finished in time
                site_run.unfinished = False
                self._take_unconfirmed(backend, site_run, site_run.closing.result(), late)
            if not site_run.outstanding:
                site_run.trouble, site_run.retry_at = None, 0.0
            elif late:
                trouble = site_run.trouble or self._stall(backend, site_run)
                if not (site_run.stream and site_run.stream.status == TOO_LARGE and site_run.send_less()):
                    site_run.wait_by_itself(trouble)
            else:
                continue
            site_run.closing, site_run.reopens = None, True
            self._changed()

    @staticmethod
    def _take_unconfirmed(backend: Backend, site_run: SiteRun, rows: int, late: bool) -> None:
        """Takes what the run's summary says, where the backend can't be asked for its rows, or counts none.

        Args:
            rows: by the summary of the run that was opened again; 0 if it was not.
            late: a count would have come by now.
        """
        sent = site_run.reader.rows
        if site_run.outstanding and late and site_run.seen and backend.counts_nothing(site_run.seen[0], sent):
            backend.can_be_asked, rows = False, sent
        if rows > site_run.confirmed:
            site_run.confirmed = site_run.unconfirmed = min(rows, sent)
