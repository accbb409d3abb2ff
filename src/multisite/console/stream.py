"""A command's output as bytes that come: with a bound on silence, none on the whole time, and how much came so far."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from typing import IO

from multisite.console.settings import ConsoleError
from multisite.console.text import say
from multisite.text import clean

CHUNK_BYTES = 256 * 1024
ERROR_BYTES = 4096
SHOW_SECONDS, SHOW_SECONDS_IN_LOG = 0.5, 10.0


def megabytes(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / 1e6:,.0f} MB"


class Stream:
    """A file to read from, as `tarfile` wants one. Progress is shown while it is read.

    Attributes:
        received: bytes so far.
        zeros: how many of the last ones were zeros.
        ended: whether the command has closed its output.
    """

    def __init__(self, process: subprocess.Popen[bytes], step: str, silent_seconds: float, next_step: str) -> None:
        """
        Args:
            process: with pipes for its output and its errors, and no buffers.
            step: the name before the progress, and before the error.
            silent_seconds: without a byte, until it is an error.
            next_step: of that error.
        """
        assert process.stdout is not None
        assert process.stderr is not None
        self.received, self.zeros, self.ended = 0, 0, False
        self._out = process.stdout.fileno()
        self._step, self._silent_seconds, self._next_step = step, silent_seconds, next_step
        self._every = SHOW_SECONDS if sys.stdout.isatty() else SHOW_SECONDS_IN_LOG
        self._shown = time.monotonic()
        self._errors = b""
        self._reader = threading.Thread(target=self._read_errors, args=(process.stderr,), daemon=True)
        self._reader.start()

    def read(self, most: int = CHUNK_BYTES) -> bytes:
        """What there is, `most` bytes at most; nothing at the end.

        Raises:
            ConsoleError: nothing came for too long.
        """
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if not poll.poll(self._silent_seconds * 1000):
            problem = f"the container sent nothing for {self._silent_seconds:.0f} s, after {megabytes(self.received)}"
            raise ConsoleError(self._step, problem, self._next_step)
        chunk = os.read(self._out, most)
        self.ended = not chunk
        self.received += len(chunk)
        tail = len(chunk) - len(chunk.rstrip(b"\0"))
        self.zeros = self.zeros + tail if tail == len(chunk) else tail
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            say(f"{self._step}: {megabytes(self.received)}")
        return chunk

    def errors(self) -> str:
        """The last of what the command, which has ended, wrote to its errors."""
        self._reader.join(timeout=1.0)  # something that it started may have them open still
        return clean(self._errors.decode(errors="replace").strip()[-500:])

    def _read_errors(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := pipe.read(ERROR_BYTES):
                self._errors = (self._errors + chunk)[-ERROR_BYTES:]
