"""The W&B writer: one process a job, which may die at any moment.

    python -m multisite.tracking.writer JOB_FOLDER [KEY_FILE]

Row n of a site's log becomes line n of that site's W&B run, and the number of lines that the backend has is where the next writer
goes on: nothing is sent twice, and "delivered" is the backend's own count. So every trouble has one cure: end, and start again.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from multisite.tracking.backend import Backend, Refusal, Run
from multisite.tracking.key import SECRET, KeyProblem, read_key
from multisite.tracking.records import LogReader, LogWriter, decode
from multisite.tracking.spool import SERVER, Job, Origin, Spool, save_json

WINDOW_ROWS = 40_000  # sent and not confirmed, over all runs: what bounds the memory
BATCH_BYTES = 64 * 1024
TICK_SECONDS = 0.2
CONFIRM_SECONDS = 5.0
STALL_SECONDS = 30.0
LATE_SECONDS = 5.0  # how long a finished job waits for a site that is not closed
RETRY_SECONDS = (2.0, 15.0)
EXIT_DONE, EXIT_NO_KEY, EXIT_AGAIN = 0, 3, 75


class Lane:
    """One site's rows on their way to its run."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.reader = LogReader(origin.log)
        self.run: Run | None = None
        self.confirmed = 0

    @property
    def outstanding(self) -> int:
        """Rows sent and not confirmed."""
        return self.reader.rows - self.confirmed if self.run else 0


class JobWriter:
    """Delivers one job."""

    def __init__(self, folder: Path, key_file: Path = SECRET) -> None:
        self.job = Job(folder)
        self.spool = Spool(folder.parent)
        self.key_file = key_file
        self.lanes: dict[str, Lane] = {}
        self.state, self.reason = "connecting", ""
        self._parent = os.getppid()
        self._progress = time.monotonic()
        self._confirmed_at = 0.0
        self._saved: dict[str, object] = {}
        for site, rows in self.job.delivered().items():
            self.lanes[site] = Lane(self.job.origin(site))
            self.lanes[site].confirmed = rows

    def run(self) -> int:
        """Delivers until the job is over and everything is confirmed.

        Returns:
            EXIT_DONE, EXIT_NO_KEY, or EXIT_AGAIN if another writer has to go on.
        """
        try:
            backend = self._connect()
        except KeyProblem as problem:
            self._say("offline", str(problem))
            return EXIT_NO_KEY
        try:
            return self._deliver(backend)
        except Refusal as refusal:
            self._say(refusal.state, str(refusal))
            return EXIT_AGAIN

    def _deliver(self, backend: Backend) -> int:
        quiet_since = time.monotonic()
        while True:
            if self._pump(backend):
                quiet_since = time.monotonic()
            outstanding = sum(lane.outstanding for lane in self.lanes.values())
            over = self.job.is_over() and not self._unread()
            if over and (self._all_closed() or time.monotonic() - quiet_since > LATE_SECONDS):
                return self._finish(backend)
            if outstanding and time.monotonic() - self._confirmed_at > (1.0 if outstanding >= WINDOW_ROWS else CONFIRM_SECONDS):
                self._confirm(backend)
            if outstanding and time.monotonic() - self._progress > STALL_SECONDS:
                self._say("stalled", f"{backend.host} has confirmed no row for {STALL_SECONDS:.0f} s")
                return EXIT_AGAIN
            if not outstanding:
                self._progress = time.monotonic()
            self._wait(TICK_SECONDS)

    def _connect(self) -> Backend:
        """A backend that accepts the key, as soon as there is one.

        Raises:
            KeyProblem: there is no key to try.
        """
        pause = RETRY_SECONDS[0]
        while True:
            try:
                backend = Backend(self.job.settings, self.job.id, read_key(self.key_file), self.job.folder / "wandb")
                self._say("online", "", backend.url)
                return backend
            except Refusal as refusal:
                self._say(refusal.state, str(refusal))
            self._wait(pause, until_sync=True)
            pause = min(pause * 2, RETRY_SECONDS[1])

    def _pump(self, backend: Backend) -> int:
        """Sends what there is, as far as the window goes. Returns how many rows."""
        sent = 0
        for origin in self.job.origins():
            lane = self.lanes.setdefault(origin.name, Lane(origin))
            if not lane.reader.unread:
                continue
            if lane.run is None:
                lane.run = self._open(backend, lane)
            while sum(other.outstanding for other in self.lanes.values()) < WINDOW_ROWS:
                payloads = lane.reader.read(BATCH_BYTES)
                if not payloads:
                    break
                for payload in payloads:
                    lane.run.log(decode(payload))
                sent += len(payloads)
        return sent

    def _open(self, backend: Backend, lane: Lane) -> Run:
        """The site's run, continued after the last row that the backend has."""
        known = backend.rows([lane.origin.name])
        before = known.get(lane.origin.name, 0)
        if known and before < lane.confirmed:
            raise Refusal("connecting", f"{backend.host} counts {before} rows of {lane.origin.name}, fewer than it confirmed")
        run = backend.open(lane.origin.name)
        after = backend.rows([lane.origin.name]).get(lane.origin.name, 0)
        if before != after:  # a writer that was killed is still heard: its last lines are on their way
            raise Refusal("connecting", f"the run of {lane.origin.name} is still being written")
        lane.reader = LogReader(lane.origin.log)
        lane.reader.skip(after)
        lane.confirmed = after
        return run

    def _unread(self) -> bool:
        return any(self.lanes.setdefault(origin.name, Lane(origin)).reader.unread for origin in self.job.origins())

    def _all_closed(self) -> bool:
        return all(
            account.closed and account.received >= account.logged for account in self.job.accounts().values()
        )  # a log whose site is unreachable isn't

    def _confirm(self, backend: Backend) -> bool:
        self._confirmed_at = time.monotonic()
        try:
            rows = backend.rows([name for name, lane in self.lanes.items() if lane.run])
        except Refusal as refusal:
            self._say(refusal.state, str(refusal))
            return False
        for name, count in rows.items():
            lane = self.lanes[name]
            if count > lane.confirmed:
                lane.confirmed = min(count, lane.reader.rows)
                self._progress = time.monotonic()
                self.state, self.reason = "online", ""
        self._say(self.state, self.reason)
        return True

    def _finish(self, backend: Backend) -> int:
        """Ends the runs, with the account in their summaries, and asks the backend what it has."""
        accounts = self.job.accounts()
        runs = [lane for lane in self.lanes.values() if lane.run]
        self._add_model()
        with ThreadPoolExecutor(max_workers=max(1, len(runs))) as pool:
            list(pool.map(lambda lane: lane.run.finish(accounts[lane.origin.name], lane.reader.rows), runs))  # type: ignore[union-attr]
        answered = self._confirm(backend)
        self._check_model(backend)
        if all(lane.confirmed >= lane.reader.rows for lane in runs):
            self._say("done" if not self._pending() else "online", "")
            return EXIT_DONE
        if answered:  # or else what it said last is the reason
            self._say("stalled", f"{backend.host} has not confirmed every row")
        return EXIT_AGAIN

    def _add_model(self) -> None:
        """The final global model, where the job wants it kept as an artifact, with the server's run."""
        lane, path = self.lanes.get(SERVER), Path(self.job.settings.get("artifact") or "/nowhere")
        if lane is None or lane.run is None or not path.exists():
            return
        try:
            lane.run.add_model(path, self.job.id)
        except Exception as error:  # the rows are worth more than the model: they go on
            print(f"W&B, job {self.job.id}: the model was not uploaded ({type(error).__name__}: {error})", flush=True)

    def _check_model(self, backend: Backend) -> None:
        """The file goes when the backend has it; else it stays in the job's folder."""
        path = Path(self.job.settings.get("artifact") or "/nowhere")
        if path.exists() and self.lanes.get(SERVER) and self.lanes[SERVER].run:
            if backend.has_model():
                path.unlink()
            else:
                print(f"W&B, job {self.job.id}: the model has not arrived; it stays in {path}", flush=True)

    def _pending(self) -> int:
        return sum(account.pending for account in self.job.accounts().values())

    def _say(self, state: str, reason: str, url: str = "") -> None:
        """Writes the writer's file, and a line on stdout when the state changes."""
        if (state, reason) != (self.state, self.reason):
            told = f": {reason}" if reason else ""
            print(f"W&B, job {self.job.id}: {state}{told}", flush=True)
        self.state, self.reason = state, reason
        runs = {name: {"id": lane.run.id if lane.run else "", "delivered": lane.confirmed} for name, lane in self.lanes.items()}
        content: dict[str, object] = {"state": state, "reason": reason, "url": url or self._saved.get("url", ""), "runs": runs}
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
    try:
        lock = LogWriter(folder / "writer.lock")
    except BlockingIOError:
        print(f"W&B: another process delivers job {folder.name}", file=sys.stderr)
        return EXIT_AGAIN
    try:
        return JobWriter(folder, key_file).run()
    finally:
        lock.close()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without the SDK's exit handlers: they wait for a backend that may not answer
