"""Reading a record log, while its writer appends to it."""

from __future__ import annotations

import os
from pathlib import Path

from multisite.tracking.damage import SEARCH_COST, Damage, find_frame, is_torn
from multisite.tracking.frames import HEAD, LEAST_FRAME_BYTES, MAGIC, MAX_RECORD_BYTES, frame_at, whole_frames
from multisite.tracking.locks import is_locked

SKIP_BYTES = 1 << 18


class LogReader:
    """Reads a record log from the start, or from where it stopped, while somebody else appends to it. Holds one batch in memory.

    In the place of damaged bytes it gives fillers, see `damage.py`.
    """

    def __init__(self, path: Path, disk: str = "", closed: bool = False) -> None:
        """
        Args:
            path: of the log.
            disk: whose disk it is on, as the fillers say it.
            closed: nobody appends to it while it is read.
        """
        self.path = path
        self.offset = len(MAGIC)
        self.rows = 0
        self._disk = disk
        self._closed = closed
        self._nothing_at = 0, 0, 0  # offset, size and time of change at which no whole frame was found
        self._waits = False  # what lies there is damaged, and more may be appended
        self._damage: Damage | None = None  # the last one
        self._search_left = SEARCH_COST
        self._synced = 0

    @property
    def unread(self) -> int:
        """Bytes after what was read; 0 where no whole frame is among them (the last one is torn), until the file changes."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0
        nothing = (self.offset, found.st_size, found.st_mtime_ns) == self._nothing_at
        if nothing and not (self._waits and not is_locked(self.path)):
            return 0
        return max(0, found.st_size - self.offset)

    def read(self, max_bytes: int) -> list[bytes]:
        """The payloads of the next whole frames, of about `max_bytes` together; at least one, if there is one."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            found = os.fstat(descriptor)  # what is added after this look is unread
            payloads = self._read(descriptor, max_bytes, found.st_size)
        finally:
            os.close(descriptor)
        if not payloads:
            self._nothing_at = self.offset, found.st_size, found.st_mtime_ns
        self.offset += sum(HEAD.size + len(payload) for payload in payloads)
        self.rows += len(payloads)
        return payloads

    def _read(self, descriptor: int, max_bytes: int, size: int) -> list[bytes]:
        left = max(0, size - self.offset)
        if self._damage is not None and self._damage.start <= self.offset < self._damage.end:
            return self._damage.fillers(self.offset, max_bytes)
        payloads, _ = whole_frames(os.pread(descriptor, min(max_bytes, left), self.offset))
        if not payloads and left > max_bytes and (payload := frame_at(descriptor, self.offset, size)) is not None:
            return [payload]
        return payloads if payloads or not left else self._pass_over_damage(descriptor, max_bytes, size)

    def _pass_over_damage(self, descriptor: int, max_bytes: int, size: int) -> list[bytes]:
        end, cost = find_frame(descriptor, self.offset, size, self._search_left)
        self._search_left -= cost
        if end is None:
            self._waits = not is_torn(descriptor, self.offset, size)
            if not self._waits or (not self._closed and is_locked(self.path)):
                return []
            end = size
        if end - self.offset < LEAST_FRAME_BYTES and (behind := frame_at(descriptor, end, size)):
            padded = behind.ljust(len(behind) + end - self.offset)  # a filler has no room: JSON may end in spaces
            if len(padded) <= MAX_RECORD_BYTES:
                return [padded]
            end += HEAD.size + len(behind)
        if end - self.offset >= LEAST_FRAME_BYTES:
            self._damage = Damage.of(descriptor, self.offset, end, self._disk)
            return self._damage.fillers(self.offset, max_bytes)
        return []

    def go_to(self, offset: int) -> bool:
        """Reads on, without a result, until `offset`. Returns false where no record begins there; damaged bytes may be parted."""
        while self.offset < offset:
            before = self.offset, self.rows
            if not self.read(min(SKIP_BYTES, offset - self.offset)):
                return False
            if self.offset > offset:
                self.offset, self.rows = before
                if self._damage is None or not self._damage.start <= self.offset < offset < self._damage.end:
                    return False
                self.offset, self._damage = offset, None
        return self.offset == offset

    def force_to_disk(self) -> None:
        """Forces what was read to the disk: what others have of it must be here after a power cut too, or its place is used again.

        Raises:
            OSError: it can't be.
        """
        if self._synced >= self.offset:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._synced = self.offset

    def skip(self, rows: int) -> None:
        """Reads on, without a result, until `rows` records lie behind."""
        while self.rows < rows:
            before = self.offset, self.rows
            payloads = self.read(SKIP_BYTES)
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
