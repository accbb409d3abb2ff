"""Reading a record log, while its writer appends to it."""

from __future__ import annotations

import os
from pathlib import Path

from multisite.tracking.damage import Rest, damage_text, kept_rests
from multisite.tracking.frames import HEAD, MAGIC, MAX_FRAME_BYTES, whole_frames


class LogReader:
    """Reads a record log from the start, or from where it stopped, while somebody else appends to it. Holds one batch in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = len(MAGIC)
        self.rows = 0
        self._nothing_at = 0, 0, 0  # offset, size and time of change at which no whole frame was found
        self._rest: Rest | None = None

    @property
    def unread(self) -> int:
        """Bytes after what was read; 0 where no whole frame is among them (the last one is torn), until the file changes."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0
        nothing = (self.offset, found.st_size, found.st_mtime_ns) == self._nothing_at
        return 0 if nothing else max(0, found.st_size - self.offset)

    def read(self, max_bytes: int) -> list[bytes]:
        """The payloads of the next whole frames, of about `max_bytes` together; at least one, if there is one."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            found = os.fstat(descriptor)  # what is added after this look is unread
            left = max(0, found.st_size - self.offset)
            payloads, used = whole_frames(os.pread(descriptor, min(max_bytes, left), self.offset))
            if not payloads and left > max_bytes:
                payloads, used = whole_frames(os.pread(descriptor, min(MAX_FRAME_BYTES, left), self.offset))
                payloads, used = payloads[:1], HEAD.size + len(payloads[0]) if payloads else 0
        finally:
            os.close(descriptor)
        if not payloads:
            self._nothing_at = self.offset, found.st_size, found.st_mtime_ns
        self.offset += used
        self.rows += len(payloads)
        return payloads

    def rest(self) -> Rest | None:
        """What lies behind the last whole frame, as of the last `read` that found none; None if nothing does.

        Raises:
            OSError: the log can't be read.
        """
        offset, size, _ = self._nothing_at
        if offset != self.offset or size <= offset:
            return None
        if self._rest is None or self._rest.start != offset:
            self._rest = Rest(offset)
        self._rest.search(self.path, size)
        return self._rest

    def damage(self) -> str:
        """What is wrong with the log, now or before it was reopened, for people; empty if nothing. Comes after `count`.

        Raises:
            OSError: the log can't be read.
        """
        return damage_text(self.path, kept_rests(self.path), self.rest())

    def skip(self, rows: int) -> None:
        """Reads on, without a result, until `rows` records lie behind."""
        while self.rows < rows:
            before = self.offset, self.rows
            payloads = self.read(1 << 18)
            if not payloads:
                return
            if self.rows > rows:
                self.offset, self.rows = before
                keep = payloads[: rows - before[1]]
                self.offset += sum(HEAD.size + len(payload) for payload in keep)
                self.rows += len(keep)

    def count(self) -> int:
        """Records in the log."""
        while self.unread and self.read(1 << 20):
            pass
        return self.rows
