"""The record log: metrics of one site in one job, appended to one file, each before training goes on.

The n-th frame of the file (see `frames.py`) is record n of that site and job: its place is its identity, so a copy of the file's first
bytes is a copy of the first records, and a resend can't add one twice. A file that ends in the middle of a frame is whole up to there.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multisite.text import clean
from multisite.tracking.damage import lost_reason
from multisite.tracking.frames import MAGIC, MAX_RECORD_BYTES, MIN_RECORD_BYTES, frame, frame_ends
from multisite.tracking.locks import is_locked, lock, unlock
from multisite.tracking.log_reader import LogReader

LAST_SECOND = 1e11  # of a record's time: in the year 5138
MAKING_SECONDS = 5.0  # from a log's first sight to its lock; an empty log that is older was left by a power cut
CLOSED, FORKED = -1, -2  # instead of a descriptor; FORKED: this process has to open its own


class RecordDamaged(ValueError):
    """What is in a log is whole, and no record. The message says why."""


class RecordRefused(Exception):
    """A record was not accepted: no space, or it can't be one. The message says why; the log is as it was before."""


class RecordTooLong(RecordRefused):
    """A record has more than MAX_RECORD_BYTES, by `excess`."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the record has {size} bytes; at most {MAX_RECORD_BYTES} are allowed")
        self.excess = size - MAX_RECORD_BYTES


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
        raise RecordTooLong(len(payload))
    return payload


def decode(payload: bytes) -> Record:
    """The record of a payload, which anybody may have made who may write the log.

    Raises:
        RecordDamaged: it is no JSON, or another than `[time, step, {name: value}]`.
    """
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        raise RecordDamaged(lost_reason(payload) or "no JSON") from None
    if not isinstance(content, list) or len(content) != 3:
        raise RecordDamaged("no [time, step, {name: value}]")
    time_, step, metrics = content
    if isinstance(time_, bool) or not isinstance(time_, (int, float)) or not 0 <= time_ < LAST_SECOND:
        raise RecordDamaged("its time is no number of seconds since 1970")
    if not isinstance(metrics, dict):
        raise RecordDamaged("its metrics have no names")
    return Record(time_, step, metrics)


class LogWriter:
    """Appends to one record log. One process at a time has it open; the lock ends with the process, however it ends.

    Its forked children (data loaders, say) may append too. The log is not open because one of them lives.

    Attributes:
        path: the log.
        size: its bytes, without what other processes appended since it was opened here.
        rows: its records, likewise.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: made if absent. A torn frame at its end is cut off; damaged bytes stay in their place.

        Raises:
            BlockingIOError: another process has it open.
            OSError, RecordRefused: it can't be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._descriptor = CLOSED
        _writers.add(self)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            lock(self._descriptor)
            self.size, self.rows = self._recover()
        except (OSError, RecordRefused):
            self.close()
            raise

    def _recover(self) -> tuple[int, int]:
        size = os.fstat(self._descriptor).st_size
        if size < len(MAGIC):
            os.ftruncate(self._descriptor, 0)
            self._write(MAGIC)
            return len(MAGIC), 0
        reader = LogReader(self.path, closed=True)
        reader.count()
        if size > reader.offset:
            os.ftruncate(self._descriptor, reader.offset)
        return reader.offset, reader.rows

    def _write(self, data: bytes | memoryview) -> None:
        """Appends all of `data`, or nothing.

        Raises:
            RecordRefused: the disk did not take it.
        """
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                self._write_rest(data, written)
        except OSError as error:
            raise RecordRefused(f"{self.path}: {error.strerror}") from None

    def _write_rest(self, data: bytes | memoryview, written: int) -> None:
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR) - written  # an append leaves the position behind it
        try:
            while written < len(data):
                if os.fstat(self._descriptor).st_size != start + written:
                    raise OSError(errno.EAGAIN, "another process appended in the middle of a record")
                written += os.write(self._descriptor, data[written:])
        except OSError:
            self._take_back(start, start + written)
            raise

    def _take_back(self, start: int, end: int) -> None:
        """Removes what this process appended from `start` to `end`, unless another has appended behind it."""
        with suppress(OSError):
            if os.fstat(self._descriptor).st_size == end:
                os.ftruncate(self._descriptor, start)

    def _check_open(self) -> None:
        """Opens it in a forked child, at its first append: a descriptor of its own has no part in its parent's lock.

        Raises:
            RecordRefused: it is closed, or can't be opened.
        """
        if self._descriptor == CLOSED:
            raise RecordRefused(f"{self.path}: closed")
        if self._descriptor == FORKED:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
            except OSError as error:
                raise RecordRefused(f"{self.path}: {error.strerror}") from None

    def after_fork(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here, and the descriptor is its parent's."""
        self._lock = threading.Lock()
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, FORKED
            with suppress(OSError):
                os.close(descriptor)

    def append(self, payload: bytes) -> int:
        """Adds one record and returns its number, from 1; in a process that is not alone, one that may be too small.

        Raises:
            RecordRefused: the disk did not take it, or it is too short for a record; nothing was added.
        """
        if len(payload) < MIN_RECORD_BYTES:
            raise RecordRefused(f"the record has {len(payload)} bytes; none has fewer than {MIN_RECORD_BYTES}")
        data = frame(payload)
        with self._lock:
            if self._descriptor < 0:
                self._check_open()
            self._write(data)
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
            self._check_open()
            if not offset <= self.size < offset + len(data):
                return
            new = memoryview(data)[self.size - offset :]
            ends = frame_ends(new)
            if not ends:
                return
            used = ends[-1]
            self._write(new[:used])
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._take_back(self.size, self.size + used)
                raise RecordRefused(f"{self.path}: {error.strerror}") from None
            self.size += used
            self.rows += len(ends)

    def close(self) -> None:
        """Ends it: from now on `is_open` is false."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, CLOSED  # first: a child that is forked now must not close it too
            if descriptor >= 0:
                unlock(descriptor)
                os.close(descriptor)


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _after_fork() -> None:
    for writer in list(_writers):
        writer.after_fork()


os.register_at_fork(after_in_child=_after_fork)  # nothing is held around a fork: it never waits for a disk


def is_open(path: Path) -> bool:
    """Whether a living process has the log open for appending, or is just about to."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    just_made = found.st_size < len(MAGIC) and abs(time.time() - found.st_mtime) < MAKING_SECONDS
    return just_made or is_locked(path)
