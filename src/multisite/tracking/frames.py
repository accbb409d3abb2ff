"""Frames, of which a record log is made, and what lies behind the last of them that can be read.

A frame is `length, crc32` (two little-endian uint32) and that many bytes. Behind the last whole frame of a log lies nothing, or a torn
frame (its writer was killed, the disk was full), or a damaged one: then whole frames follow it, which nobody can number any more.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MAGIC = b"multisite-records-1\n"
HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 1 << 20  # W&B drops longer lines
MIN_RECORD_BYTES = len("[0,0,{}]")
MAX_FRAME_BYTES = HEAD.size + MAX_RECORD_BYTES

SEARCHED_BYTES = 64 << 20  # at most, of what lies behind a damage
SUMMED_BYTES = 256 << 20  # at most, of what only looks like frames there
CHUNK_BYTES = 4 * MAX_FRAME_BYTES  # in memory
PAYLOAD_START = re.compile(rb"\[(?<=[\x00-\x10]\x00.{4}\[)", re.DOTALL)  # behind a length that a record may have, and a checksum
KEPT_HEAD = re.compile(rb"multisite-damaged-1 (\d{1,19})\n")


def frame(payload: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def frame_ends(data: memoryview) -> list[int]:
    """Where the frames at the start of `data` end, as far as they are whole and undamaged. Zeros are none. Copies nothing."""
    ends, at, end = [], 0, len(data)
    while at + HEAD.size <= end:
        length, checksum = HEAD.unpack_from(data, at)
        stop = at + HEAD.size + length
        if not MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES or stop > end or zlib.crc32(data[at + HEAD.size : stop]) != checksum:
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


class Rest:
    """What lies behind the last whole frame of a file: torn while `records` is 0, else damaged.

    Attributes:
        start: where it begins.
        records: whole frames that were found in it.
        searched: whether all of it was searched.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.records = 0
        self.searched = True
        self._at = start  # the frames before it are counted
        self._to = start
        self._left = SUMMED_BYTES

    def search(self, descriptor: int, size: int) -> None:
        """Counts the whole frames up to `size`. A second call goes on where the first one stopped; one at the same size does nothing.

        Raises:
            OSError: the file can't be read.
        """
        if size == self._to:
            return
        self._to = size
        stop = min(size, self.start + SEARCHED_BYTES)
        while self._left > 0 and self._at + HEAD.size + MIN_RECORD_BYTES <= stop:
            data = os.pread(descriptor, min(CHUNK_BYTES, stop - self._at), self._at)
            ends = frame_ends(memoryview(data)) if self._at > self.start else []
            if ends:
                self.records += len(ends)
                self._at += ends[-1]
            elif (found := self._find(data)) > 0:
                self._at += found
            elif len(data) > MAX_FRAME_BYTES:
                self._at += len(data) - MAX_FRAME_BYTES  # what begins behind it may be cut off by the end of `data`
            else:
                break
        self.searched = stop == size and self._left > 0

    def _find(self, data: bytes) -> int:
        """Where the first whole frame begins, the start of `data` aside; 0 if there is none."""
        for match in PAYLOAD_START.finditer(data, HEAD.size + 1):
            at = match.start()
            length, checksum = HEAD.unpack_from(data, at - HEAD.size)
            stop = at + length
            if not MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES or stop > len(data) or data[stop - 1 : stop] != b"]":
                continue
            if zlib.crc32(memoryview(data)[at:stop]) == checksum:
                return at - HEAD.size
            self._left -= length
            if self._left <= 0:
                break
        return 0


def keep_rest(log: Path, descriptor: int, start: int, size: int) -> Path:
    """Copies what lies in `log` from `start` to `size` to a file beside it, and forces it to the disk.

    Returns:
        The file: `records.log.damaged`, or the first of `records.log.damaged.1` and so on that is not there yet. It begins with a
        line that says where its content was.

    Raises:
        OSError: there is no room for it, or the log can't be read; there is no such file then.
    """
    kept = log.with_name(f"{log.name}.damaged")
    for number in range(1, 1 + len(kept_rests(log))):
        kept = log.with_name(f"{log.name}.damaged.{number}")
    copying = log.with_name(f".{log.name}.damaged")  # whoever copies has the log locked
    try:
        with open(copying, "wb") as file:
            file.write(b"multisite-damaged-1 %d\n" % start)
            while start < size and (data := os.pread(descriptor, min(CHUNK_BYTES, size - start), start)):
                file.write(data)
                start += len(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(copying, kept)
    except OSError:
        copying.unlink(missing_ok=True)
        raise
    return kept


def kept_rests(log: Path) -> list[Path]:
    """The files that `keep_rest` made of this log. Cheap where there is none."""
    found: list[Path] = []
    name = f"{log}.damaged"
    while os.path.exists(name):
        found.append(Path(name))
        name = f"{log}.damaged.{len(found)}"
    return found


@dataclass(frozen=True)
class Place:
    """One damage of a log, past or present."""

    byte: int
    records: int
    more: bool  # not all of what lies behind it was searched


def place_of(rest: Rest) -> Place:
    """What was found in a rest."""
    return Place(rest.start, rest.records, not rest.searched)


@lru_cache(maxsize=256)
def _kept_place(path: Path, size: int, changed: int) -> Place:
    """The damage that a kept file is from: the file does not change any more, so it is read once."""
    with open(path, "rb") as file:
        head = KEPT_HEAD.match(file.readline(64))
        rest = Rest(0)  # the line is no frame
        rest.search(file.fileno(), size)
    return Place(int(head[1]) if head else 0, rest.records, not rest.searched)


def kept_places(log: Path) -> list[Place]:
    """The damages of which the rest was kept.

    Raises:
        OSError: one of the files can't be read.
    """
    places = []
    for path in kept_rests(log):
        found = path.stat()
        places.append(_kept_place(path, found.st_size, found.st_mtime_ns))
    return places


def damage_text(log: Path, places: list[Place], kept: int) -> str:
    """What people are told of a log's damages; empty if there is none.

    Args:
        log: its path.
        places: the damages.
        kept: how many of them are past: what lay behind them was kept.
    """
    if not places:
        return ""
    count = sum(place.records for place in places)
    records = f"{'at least ' if any(place.more for place in places) else ''}{count} record{'' if count == 1 else 's'}"
    where = f"at byte {places[0].byte}" if len(places) == 1 else f"at {len(places)} places, first at byte {places[0].byte}"
    then = f"; kept in {log.name}.damaged" if kept else ""
    return f"{log.name} is damaged {where}: {records} behind it can't be delivered{then}"
