"""The W&B writer: one process a job, which may die at any moment.

    python -m multisite.tracking.writer JOB_FOLDER [KEY_FILE]

Every row carries the number of its record, and the number of the last row that the backend has is where the next writer goes on:
nothing is sent twice, and "delivered" is what the backend says.

A record that can't be sent (no JSON, or the client refuses it) is set aside by its number, and a row stands in its place. A site whose
run can't be opened, or stands still, waits by itself: the job's other sites go on. A run that stands still is finished and opened again.
When no site goes on, the writer ends, and the next one begins with a new client.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from multisite.text import clean
from multisite.tracking.backend import Backend
from multisite.tracking.files import save_json
from multisite.tracking.key import SECRET, KeyProblem, read_key
from multisite.tracking.model_upload import add_model, missing_model
from multisite.tracking.site_run import SiteRun
from multisite.tracking.site_runs import SiteRuns
from multisite.tracking.spool import SERVER, Job, Spool
from multisite.tracking.troubles import Refusal

BATCH_BYTES = 64 * 1024
TICK_SECONDS = 0.2
LATE_SECONDS = 5.0  # how long a finished job waits for a site that is not closed
RETRY_SECONDS = (2.0, 15.0)
PERSON_SECONDS = 60.0  # until what a person has to cure is tried again, unless there is another key
EXIT_DONE, EXIT_NO_KEY, EXIT_SETTINGS, EXIT_AGAIN = 0, 3, 4, 75


class JobWriter:
    """Delivers one job."""

    def __init__(self, folder: Path, key_file: Path = SECRET) -> None:
        self.job = Job(folder)
        self.spool = Spool(folder.parent)
        self.key_file = key_file
        self.runs = SiteRuns(self.job, self._save)
        self.state, self.reason, self.url = "connecting", "", ""
        self._parent = os.getppid()
        self._saved: dict[str, object] = {}

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
            over = self.job.is_over()
            if over and with_model and self.job.has_model():
                server = self.runs.of(SERVER)
                server.reopens = server.run is None
            if self._pump(backend):
                quiet_since = time.monotonic()
            late = time.monotonic() - quiet_since > LATE_SECONDS
            if over and not self.runs.unsettled() and (late or self._all_closed()):
                model_given = self._close_all(backend, with_model)
                if not self.runs.has_unsent():  # what was too large for one request is sent again
                    return self._end(backend, model_given)
            self._confirm(backend)
            self.runs.close_stalled(backend)
            self.runs.take_closed(backend)
            if stalled := self.runs.stalled():
                self._set_state(stalled.state, str(stalled))
            elif self.state == "stalled":
                self._set_state("online", "")
            self._wait(TICK_SECONDS)

    def _connect(self, settings: dict[str, Any]) -> Backend:
        """A backend that accepts the key, as soon as there is one.

        Raises:
            KeyProblem: there is no key to try.
        """
        pause = RETRY_SECONDS[0]
        while True:
            key = read_key(self.key_file)
            try:
                backend = Backend(settings, self.job.id, key, self.job.folder / "wandb")
                self.url = backend.url
                self._set_state("online", "")
                return backend
            except Refusal as refusal:
                self._set_state(refusal.state, str(refusal))
                needs_person = refusal.state in ("refused", "misconfigured")
            self._wait(PERSON_SECONDS if needs_person else pause, key)
            pause = min(pause * 2, RETRY_SECONDS[1])

    def _pump(self, backend: Backend) -> int:
        """Sends what there is, as far as the window goes. Returns how many rows.

        Raises:
            Refusal: the backend does not answer, or no site goes on.
        """
        sent = 0
        for origin in self.job.origins():
            site_run = self.runs.of(origin.name)
            if site_run.waiting and self.runs.has_run(backend, site_run):
                sent += self._send(site_run)
        self.runs.check_goes_on()
        return sent

    def _send(self, site_run: SiteRun) -> int:
        sent, note = 0, site_run.note
        while not self.runs.is_full(site_run) and (count := site_run.send_batch(BATCH_BYTES)):
            sent += count
            if site_run.note != note:
                self.runs.note(site_run, again=bool(note))
                note = site_run.note
        if site_run.trouble and site_run.run is None:
            self.runs.note(site_run)
        return sent

    def _all_closed(self) -> bool:
        """Whether every site's log is closed and here; one whose site is unreachable isn't."""
        return all(account.closed and account.received >= account.logged for account in self.job.accounts().values())

    def _confirm(self, backend: Backend) -> None:
        if self.runs.ask(backend):
            self._set_state("online", "")
        elif self.runs.trouble:
            self._set_state(self.runs.trouble.state, str(self.runs.trouble))

    def _close_all(self, backend: Backend, with_model: bool) -> bool:
        """Ends the runs, with the account in their summaries, and asks the backend what it has. Returns whether the model was given to one."""
        exit_code = self.job.exit_code()
        server_run = self.runs.of(SERVER).run if with_model else None
        if server_run:
            add_model(self.job, server_run)
        for site_run in self.runs.by_site.values():
            if site_run.run:
                self.runs.close(backend, site_run, exit_code)
        while self.runs.closing():
            self._confirm(backend)
            self.runs.take_closed(backend)
            self._wait(TICK_SECONDS)
        return server_run is not None

    def _end(self, backend: Backend, model_given: bool) -> int:
        """Says how it ended. Returns the exit status."""
        if troubled := self.runs.troubled():
            assert troubled.trouble is not None
            if not self.runs.trouble:  # or else that is the reason
                self._set_state(troubled.trouble.state, f"{troubled.origin.name}: {troubled.trouble}")
            return EXIT_AGAIN
        left = missing_model(self.job, backend) if model_given else ""
        unfinished = [site for site, site_run in self.runs.by_site.items() if site_run.unfinished]
        if unfinished and not left:
            left = f"the run of {unfinished[0]} could not be finished; it is tried again for ten minutes, then at make sync"
        pending = any(account.pending for account in self.job.accounts().values())
        self._set_state("online" if pending else "done", left)
        return EXIT_AGAIN if left else EXIT_DONE

    def _set_state(self, state: str, reason: str) -> None:
        """Writes the writer's file, and a line on stdout when the state changes."""
        if (state, reason) != (self.state, self.reason):
            print(f"W&B, job {self.job.id}: {state}{f': {reason}' if reason else ''}", flush=True)
        self.state, self.reason = state, reason
        self._save()

    def _save(self) -> None:
        site_runs = self.runs.by_site
        shown = clean(self.reason or "; ".join(site_run.note for site_run in site_runs.values() if site_run.note))
        runs = {site: site_run.as_dict() for site, site_run in site_runs.items()}
        content: dict[str, object] = {"state": self.state, "reason": shown, "url": self.url, "runs": runs}
        if content != self._saved:
            save_json(self.job.writer_file, content)
            self._saved = content

    def _wait(self, seconds: float, refused_key: str = "") -> None:
        """Waits; ends the process with its parent, and a pause with `refused_key` early: when somebody asks, or there is another key.

        Raises:
            KeyProblem: there is no key any more.
        """
        asked = self.spool.sync_requested()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, TICK_SECONDS))
            if os.getppid() != self._parent:
                os._exit(EXIT_AGAIN)
            if refused_key and (self.spool.sync_requested() != asked or read_key(self.key_file) != refused_key):
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
