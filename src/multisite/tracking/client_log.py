"""What W&B's client says of its own requests: a run's `debug-internal.log` (`wandb.Settings.log_internal`), one JSON object a line.

Its Python side never learns why a stream of rows stands still. A client that writes other lines costs the reason, and nothing else.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

STREAM = "/file_stream"  # how the address of the rows' stream ends
GIVEN_UP = "filestream: fatal error"
TOO_LARGE, LIMITED = 413, 429
LIMITED_SECONDS = 600.0
POLL_SECONDS = 0.005
READ_BYTES = 1 << 20  # at once


class ClientLog:
    """The last answer to a run's stream of rows.

    Attributes:
        status: its HTTP status; 0 where the request was taken, or nothing is known.
        final: the client gave the stream up, and sends nothing more.
        begun: a request was sent.
        taken: a request was taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = 0
        self.final = False
        self.begun = self.taken = False
        self._limited_at = 0.0
        self._offset = 0

    @property
    def limited(self) -> bool:
        """Whether the client waits until the backend takes requests again. It keeps the time that the backend gave.

        The end of the wait of a request without rows (the client sends one after 30 s of silence) is in no line: so after a while
        this is not believed any more.
        """
        return self.status == LIMITED and not self.final and time.monotonic() - self._limited_at < LIMITED_SECONDS

    def wait_for_first(self, seconds: float) -> None:
        """Waits until a request was sent, so long at most."""
        deadline = time.monotonic() + seconds
        while not self.begun and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self.read()

    def read(self) -> None:
        """Takes what the client has written since the last time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                lines, newline, _ = file.read(READ_BYTES).rpartition(b"\n")
        except OSError:
            return
        self._offset += len(lines) + len(newline)
        for line in lines.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        status, level, message, url = (said.get(name) for name in ("status", "level", "msg", "url"))
        if str(url).endswith(STREAM) and isinstance(status, int):
            self.begun, self.status, self._limited_at = True, status, time.monotonic()
            self.final |= str(level).startswith("ERROR")  # or else the client sends it again by itself
            return
        if not str(message).startswith("filestream:"):
            return
        self.begun = True
        if isinstance(status, str):  # "200 OK"
            self.status, self.final, self.taken = 0, False, True
        elif str(message).startswith(GIVEN_UP):
            self.final = True
