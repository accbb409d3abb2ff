"""The W&B writer: one process a job, which may die at any moment.

    python -m multisite.tracking.writer JOB_FOLDER [KEY_FILE]

Every row carries the number of its record, and the number of the last row that the backend has is where the next writer goes on:
nothing is sent twice, and "delivered" is what the backend says. So every trouble has one cure: end, and start again.

A record that can't be sent (no JSON, or the client refuses it) is set aside by its number, and a row stands in its place. A site whose
run can't be opened waits by itself: the job's other sites go on.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from multisite.text import clean
from multisite.tracking.backend import Backend, Place
from multisite.tracking.files import save_json
from multisite.tracking.key import SECRET, KeyProblem, read_key
from multisite.tracking.log_reader import LogReader
from multisite.tracking.model_upload import add_model, check_model
from multisite.tracking.site_run import SiteRun
from multisite.tracking.spool import SERVER, Job, Spool
from multisite.tracking.troubles import Refusal

WINDOW_ROWS = 40_000  # sent and not confirmed, over all runs: what bounds the memory; every site has an equal share
WINDOW_BYTES = 64_000_000  # likewise
BATCH_BYTES = 64 * 1024
TICK_SECONDS = 0.2
CONFIRM_SECONDS = 5.0
STALL_SECONDS = 30.0
STILL_SECONDS = 12.0  # W&B counts rows up to 10 s late: so long a count must stand still, and the end waits for it at most
LOOK_SECONDS = 1.0  # between two looks at such a count
LATE_SECONDS = 5.0  # how long a finished job waits for a site that is not closed
RETRY_SECONDS = (2.0, 15.0)
RUN_RETRY_SECONDS = (30.0, 300.0)  # until a run that could not be opened is tried again: a try takes 20 s, of every site of the job
EXIT_DONE, EXIT_NO_KEY, EXIT_SETTINGS, EXIT_AGAIN = 0, 3, 4, 75


class JobWriter:
    """Delivers one job."""

    def __init__(self, folder: Path, key_file: Path = SECRET) -> None:
        self.job = Job(folder)
        self.spool = Spool(folder.parent)
        self.key_file = key_file
        self.site_runs: dict[str, SiteRun] = {}
        self.state, self.reason = "connecting", ""
        self._parent = os.getppid()
        self._progress = time.monotonic()
        self._confirmed_at = 0.0
        self._saved: dict[str, object] = {}
        status = self.job.writer_status()
        for site, run in status.get("runs", {}).items():
            site_run = self.site_runs[site] = SiteRun(self.job.origin(site))
            site_run.confirmed, site_run.set_aside = run["delivered"], run.get("set_aside", {})
            site_run.id = "" if status["state"] == "done" else run["id"]

    def run(self) -> int:
        """Delivers until the job is over and everything is confirmed.

        Returns:
            EXIT_DONE, EXIT_NO_KEY, EXIT_SETTINGS, or EXIT_AGAIN if another writer has to go on.
        """
        settings, problem = self.job.read_settings()
        if not settings:
            self._set_state("misconfigured", problem or "job.json is missing")
            return EXIT_SETTINGS
        try:
            backend = self._connect(settings)
        except KeyProblem as problem:
            self._set_state("offline", str(problem))
            return EXIT_NO_KEY
        try:
            return self._deliver(backend, bool(settings["artifact"]))
        except Refusal as refusal:
            self._set_state(refusal.state, str(refusal))
            return EXIT_AGAIN

    def _deliver(self, backend: Backend, with_model: bool) -> int:
        quiet_since = time.monotonic()
        while True:
            if self._pump(backend):
                quiet_since = time.monotonic()
            outstanding = sum(site_run.outstanding for site_run in self.site_runs.values())
            over = self.job.is_over() and not self._unread()
            if over and (self._all_closed() or time.monotonic() - quiet_since > LATE_SECONDS):
                return self._finish(backend, with_model)
            if outstanding and time.monotonic() - self._confirmed_at > (
                LOOK_SECONDS if outstanding >= WINDOW_ROWS else CONFIRM_SECONDS
            ):
                self._confirm(backend)
            if outstanding and time.monotonic() - self._progress > STALL_SECONDS:
                self._set_state("stalled", f"{backend.host} has confirmed no row for {STALL_SECONDS:.0f} s")
                return EXIT_AGAIN
            if not outstanding:
                self._progress = time.monotonic()
            self._wait(TICK_SECONDS)

    def _connect(self, settings: dict[str, Any]) -> Backend:
        """A backend that accepts the key, as soon as there is one.

        Raises:
            KeyProblem: there is no key to try.
        """
        pause = RETRY_SECONDS[0]
        while True:
            try:
                backend = Backend(settings, self.job.id, read_key(self.key_file), self.job.folder / "wandb")
                self._set_state("online", "", backend.url)
                return backend
            except Refusal as refusal:
                self._set_state(refusal.state, str(refusal))
            self._wait(pause, until_sync=True)
            pause = min(pause * 2, RETRY_SECONDS[1])

    def _pump(self, backend: Backend) -> int:
        """Sends what there is, as far as the window goes. Returns how many rows.

        Raises:
            Refusal: no site's run can be opened, or one takes nothing any more.
        """
        sent = 0
        for origin in self.job.origins():
            site_run = self.site_runs.setdefault(origin.name, SiteRun(origin))
            if site_run.reader.unread and self._has_run(backend, site_run):
                sent += self._send(site_run)
        troubles = [site_run.trouble for site_run in self.site_runs.values() if site_run.trouble]
        if troubles and not any(site_run.goes_on for site_run in self.site_runs.values()):
            raise troubles[0]
        return sent

    def _send(self, site_run: SiteRun) -> int:
        sent, note = 0, site_run.note
        share = WINDOW_ROWS // len(self.site_runs)
        bytes_ = WINDOW_BYTES // len(self.site_runs)
        while site_run.outstanding < share and site_run.outstanding_bytes < bytes_ and (count := site_run.send_batch(BATCH_BYTES)):
            sent += count
            if site_run.note != note:
                self._note(site_run, again=bool(note))
                note = site_run.note
        if site_run.trouble:
            self._note(site_run)
        return sent

    def _note(self, site_run: SiteRun, again: bool = False) -> None:
        """Writes what is wrong with a site before the backend may confirm rows after it; says it the first time."""
        if not again:
            print(f"W&B, job {self.job.id}: {site_run.note}", flush=True)
        self._set_state(self.state, self.reason)

    def _has_run(self, backend: Backend, site_run: SiteRun) -> bool:
        """Whether the site's run is open, or could be opened. One that can't be is tried again after a pause.

        Raises:
            Refusal: the backend does not answer.
        """
        if site_run.run is not None or time.monotonic() < site_run.retry_at:
            return site_run.run is not None
        started, name = time.monotonic(), site_run.origin.name
        known = backend.places([name])
        place = known.get(name, Place())
        if site_run.id and not site_run.stands_still(place, STILL_SECONDS):
            site_run.retry_at = time.monotonic() + LOOK_SECONDS
            return False
        rows = backend.records_in(place)
        try:
            if known and rows < site_run.confirmed:
                raise Refusal("connecting", f"{backend.host} has {rows} rows of {name}, fewer than it confirmed")
            run = backend.open(name, known=name in known)
        except Refusal as refusal:
            again = str(refusal) == str(site_run.trouble)
            site_run.pause = min(max(2 * site_run.pause, RUN_RETRY_SECONDS[0]), RUN_RETRY_SECONDS[1])
            site_run.trouble, site_run.retry_at = refusal, time.monotonic() + site_run.pause
            self._note(site_run, again)
            self._progress += time.monotonic() - started  # nobody asked for rows meanwhile
            return False
        site_run.reader = LogReader(site_run.origin.log)
        site_run.reader.skip(rows)
        site_run.run, site_run.trouble, site_run.confirmed, site_run.id = run, None, rows, run.id
        self._set_state(self.state, self.reason)  # before a row is sent: the next writer must know
        return True

    def _unread(self) -> bool:
        """Whether a site's log has more, and the site's run is not in trouble."""
        site_runs = (self.site_runs.setdefault(origin.name, SiteRun(origin)) for origin in self.job.origins())
        return any(site_run.reader.unread and not site_run.trouble for site_run in site_runs)

    def _all_closed(self) -> bool:
        """Whether every site's log is closed and here; one whose site is unreachable isn't."""
        return all(account.closed and account.received >= account.logged for account in self.job.accounts().values())

    def _confirm(self, backend: Backend) -> bool:
        self._confirmed_at = time.monotonic()
        try:
            places = backend.places([name for name, site_run in self.site_runs.items() if site_run.run])
        except Refusal as refusal:
            self._set_state(refusal.state, str(refusal))
            return False
        for name, place in places.items():
            site_run, count = self.site_runs[name], backend.records_in(place)
            if count > site_run.confirmed:
                site_run.confirmed = min(count, site_run.reader.rows)
                self._progress = time.monotonic()
                self.state, self.reason = "online", ""
        self._set_state(self.state, self.reason)
        return True

    def _finish(self, backend: Backend, with_model: bool) -> int:
        """Ends the runs, with the account in their summaries, and asks the backend what it has."""
        accounts = self.job.accounts()
        runs = [site_run for site_run in self.site_runs.values() if site_run.run]
        server = self.site_runs.get(SERVER)
        server_run = server.run if with_model and server else None
        if server_run:
            add_model(self.job, server_run)
        with ThreadPoolExecutor(max_workers=max(1, len(runs))) as pool:
            list(pool.map(lambda site_run: site_run.run.finish(accounts[site_run.origin.name], site_run.reader.rows), runs))  # type: ignore[union-attr]
        deadline = time.monotonic() + STILL_SECONDS
        answered = self._confirm(backend)
        while answered and any(site_run.outstanding for site_run in runs) and time.monotonic() < deadline:
            self._wait(LOOK_SECONDS)
            answered = self._confirm(backend)
        if server_run:
            check_model(self.job, backend)
        if trouble := next((site_run for site_run in self.site_runs.values() if site_run.trouble), None):
            assert trouble.trouble is not None
            self._set_state(trouble.trouble.state, f"{trouble.origin.name}: {trouble.trouble}")
            return EXIT_AGAIN
        if all(site_run.confirmed >= site_run.reader.rows for site_run in runs):
            pending = any(account.pending for account in self.job.accounts().values())
            self._set_state("online" if pending else "done", "")
            return EXIT_DONE
        if answered:  # or else the last reason stands
            self._set_state("stalled", f"{backend.host} has not confirmed every row")
        return EXIT_AGAIN

    def _set_state(self, state: str, reason: str, url: str = "") -> None:
        """Writes the writer's file, and a line on stdout when the state changes."""
        if (state, reason) != (self.state, self.reason):
            print(f"W&B, job {self.job.id}: {state}{f': {reason}' if reason else ''}", flush=True)
        self.state, self.reason = state, reason
        shown = clean(reason or "; ".join(site_run.note for site_run in self.site_runs.values() if site_run.note))
        runs: dict[str, dict[str, Any]] = {}
        for name, site_run in self.site_runs.items():
            runs[name] = {"id": site_run.id, "delivered": site_run.confirmed}
            if site_run.set_aside:
                runs[name]["set_aside"] = site_run.set_aside
        content: dict[str, object] = {"state": state, "reason": shown, "url": url or self._saved.get("url", ""), "runs": runs}
        if content != self._saved:
            save_json(self.job.writer_file, content)
            self._saved = content

    def _wait(self, seconds: float, until_sync: bool = False) -> None:
        """Waits; ends the process with its parent, and a pause early when somebody asks to try again now."""
        asked = self.spool.sync_requested()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, TICK_SECONDS))
            if os.getppid() != self._parent:
                os._exit(EXIT_AGAIN)
            if until_sync and self.spool.sync_requested() != asked:
                return


def main() -> int:
    """Delivers one job, unless another process does."""
    folder = Path(sys.argv[1])
    key_file = Path(sys.argv[2]) if len(sys.argv) > 2 else SECRET
    lock = FileLock(folder / "writer.lock", fallback_to_soft=False)  # an flock: it ends with its process
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"W&B: another process delivers job {folder.name}", file=sys.stderr)
        return EXIT_AGAIN
    try:
        return JobWriter(folder, key_file).run()
    finally:
        lock.release()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without the SDK's exit handlers: they wait for a backend that may not answer
