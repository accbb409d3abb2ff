"""The record log: metrics of one site in one job, appended to one file, each before training goes on.

A frame is `length, crc32` (two little-endian uint32) and that many bytes of JSON. The n-th frame of the file is record n of that
site and job: its place is its identity, so a copy of the file's first bytes is a copy of the first records, and a resend can't add
one twice. A file that ends in the middle of a frame (its writer was killed, the disk was full) is whole up to there.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multisite.text import clean
from multisite.tracking.locks import is_locked, lock, unlock

MAGIC = b"multisite-records-1\n"
HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 1 << 20  # W&B drops longer lines
LAST_SECOND = 1e11  # of a record's time: in the year 5138
MIN_RECORD_BYTES = len("[0,0,{}]")


class RecordDamaged(ValueError):
    """What is in a log is whole, and no record. The message says why."""


class RecordRefused(Exception):
    """A record was not accepted: no space, or it can't be one. The message says why; the log is as it was before."""


class RecordTooLong(RecordRefused):
    """A record has more than MAX_RECORD_BYTES."""


@dataclass(frozen=True)
class Record:
    """One call of `log`.

    Attributes:
        time: seconds since the epoch, when it was logged.
        step: as the training script gave it.
        metrics: names and values.
    """

    time: float
    step: int | None
    metrics: Mapping[str, Any]


def frame(payload: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _plain(value: Any) -> Any:
    """NumPy and PyTorch scalars have `item()`; what has not is kept as text."""
    return value.item() if hasattr(value, "item") else str(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain, check_circular=False).encode


def encode(record: Record) -> bytes:
    """The payload of a record.

    Raises:
        RecordTooLong: it is longer than MAX_RECORD_BYTES.
        RecordRefused: it can't be written as JSON.
    """
    try:
        payload = _encode([record.time, record.step, record.metrics]).encode()
    except Exception as error:  # a value is anybody's class
        raise RecordRefused(clean(f"the metrics can't be written as JSON ({type(error).__name__}: {error})")) from None
    if len(payload) > MAX_RECORD_BYTES:
        raise RecordTooLong(f"the record has {len(payload)} bytes; at most {MAX_RECORD_BYTES} are allowed")
    return payload


def decode(payload: bytes) -> Record:
    """The record of a payload, which anybody may have made who may write the log.

    Raises:
        RecordDamaged: it is no JSON, or another than `[time, step, {name: value}]`.
    """
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        raise RecordDamaged("no JSON") from None
    if not isinstance(content, list) or len(content) != 3:
        raise RecordDamaged("no [time, step, {name: value}]")
    time_, step, metrics = content
    if isinstance(time_, bool) or not isinstance(time_, (int, float)) or not 0 <= time_ < LAST_SECOND:
        raise RecordDamaged("its time is no number of seconds since 1970")
    if not isinstance(metrics, dict):
        raise RecordDamaged("its metrics have no names")
    return Record(time_, step, metrics)


def frame_ends(data: memoryview) -> list[int]:
    """Where the frames at the start of `data` end, as far as they are whole and undamaged. Zeros at the end of a file are none."""
    ends, at, end = [], 0, len(data)
    while at + HEAD.size <= end:
        length, checksum = HEAD.unpack_from(data, at)
        stop = at + HEAD.size + length
        if not 0 < length <= MAX_RECORD_BYTES or stop > end or zlib.crc32(data[at + HEAD.size : stop]) != checksum:
            break
        ends.append(stop)
        at = stop
    return ends


def whole_frames(data: bytes | memoryview) -> tuple[list[bytes], int]:
    """Payloads of the frames at the start of `data` that are whole and undamaged, and how many bytes they take."""
    view, at, payloads = memoryview(data), 0, []
    for stop in frame_ends(view):
        payloads.append(bytes(view[at + HEAD.size : stop]))
        at = stop
    return payloads, at


class LogReader:
    """Reads a record log from the start, or from where it stopped, while somebody else appends to it. Holds one batch in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = len(MAGIC)
        self.rows = 0
        self._looked_at = 0, 0  # size and time of change at which no whole frame was left

    @property
    def unread(self) -> int:
        """Bytes after what was read; 0 where no whole frame is among them, until the file grows."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0
        return 0 if (found.st_size, found.st_mtime_ns) == self._looked_at else max(0, found.st_size - self.offset)

    def read(self, max_bytes: int) -> list[bytes]:
        """The payloads of the next whole frames, of about `max_bytes` together; at least one, if there is one."""
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                file.seek(self.offset)
                payloads, used = whole_frames(file.read(max_bytes))
                if not payloads:
                    file.seek(self.offset)
                    payloads, used = whole_frames(file.read(HEAD.size + MAX_RECORD_BYTES))
                    payloads, used = payloads[:1], HEAD.size + len(payloads[0]) if payloads else 0
        except FileNotFoundError:
            return []
        if not payloads:
            self._looked_at = found.st_size, found.st_mtime_ns
        self.offset += used
        self.rows += len(payloads)
        return payloads

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
        while self.read(1 << 20):
            pass
        return self.rows


class LogWriter:
    """Appends to one record log. One process at a time has it open; the lock ends with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: made if absent; a torn frame at its end is cut off.

        Raises:
            BlockingIOError: another process has it open.
            OSError: it can't be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        try:
            lock(self._descriptor)
            self.size, self.rows = self._recover()
        except OSError:
            os.close(self._descriptor)
            raise

    def _recover(self) -> tuple[int, int]:
        if os.fstat(self._descriptor).st_size < len(MAGIC):
            os.ftruncate(self._descriptor, 0)
            self._write(MAGIC, 0)
            return len(MAGIC), 0
        reader = LogReader(self.path)
        reader.count()
        os.ftruncate(self._descriptor, reader.offset)
        return reader.offset, reader.rows

    def _write(self, data: bytes | memoryview, size: int) -> None:
        """Writes all of `data` after `size` bytes, or leaves these alone.

        Raises:
            RecordRefused: the disk did not take it.
        """
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise RecordRefused(f"{self.path}: {error.strerror}") from None

    def append(self, payload: bytes) -> int:
        """Adds one record and returns its number, from 1.

        Raises:
            RecordRefused: the disk did not take it; nothing was added.
        """
        data = frame(payload)
        with self._lock:
            if self._descriptor < 0:
                raise RecordRefused(f"{self.path}: closed")
            self._write(data, self.size)
            self.size += len(data)
            self.rows += 1
            return self.rows

    def log(self, metrics: Mapping[str, Any], step: int | None) -> int:
        """Adds a record of now and returns its number, from 1.

        Raises:
            RecordRefused: see `append` and `encode`.
        """
        return self.append(encode(Record(time.time(), step, metrics)))

    def extend(self, offset: int, data: bytes) -> None:
        """Adds what lies at `offset` in the log that this one is a copy of, and forces it to the disk.

        Args:
            offset: where `data` begins. What is here already is passed over; data that would leave a gap is ignored.
            data: whole frames; a damaged one and what follows it are ignored.

        Raises:
            RecordRefused: the disk did not take it; nothing was added.
        """
        with self._lock:
            if self._descriptor < 0:
                raise RecordRefused(f"{self.path}: closed")
            if not offset <= self.size < offset + len(data):
                return
            new = memoryview(data)[self.size - offset :]
            ends = frame_ends(new)
            if not ends:
                return
            used = ends[-1]
            self._write(new[:used], self.size)
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                os.ftruncate(self._descriptor, self.size)
                raise RecordRefused(f"{self.path}: {error.strerror}") from None
            self.size += used
            self.rows += len(ends)

    def close(self) -> None:
        """Ends it: from now on `is_open` is false."""
        with self._lock:
            if self._descriptor >= 0:
                unlock(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = -1


def is_open(path: Path) -> bool:
    """Whether a living process has the log open for appending."""
    try:
        just_made = path.stat().st_size < len(MAGIC)  # its writer locks it before it writes
    except FileNotFoundError:
        return False
    return just_made or is_locked(path)
