"""What lies behind the last whole frame of a record log: how it is searched, kept and said.

Nothing does, or a torn frame (its writer was killed, the disk was full), or a damaged one: then whole frames follow it, which nobody can
number any more.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from functools import lru_cache
from pathlib import Path

from multisite.tracking.frames import HEAD, MAX_FRAME_BYTES, MAX_RECORD_BYTES, MIN_RECORD_BYTES, frame_ends

SEARCHED_BYTES = 64 << 20  # at most, of what lies behind a damage
SUMMED_BYTES = 256 << 20  # at most, of what only looks like frames there
LOOK_COST = 256  # of SUMMED_BYTES, for one look at what may be the start of a frame
CHUNK_BYTES = 4 * MAX_FRAME_BYTES  # in memory
PAYLOAD_START = re.compile(rb"\[(?<=[\x00-\x10]\x00.{4}\[)", re.DOTALL)  # behind a length that a record may have, and a checksum
KEPT_HEAD = re.compile(rb"multisite-damaged-1 (\d{1,19})\n")


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

    def search(self, path: Path, size: int) -> None:
        """Counts the whole frames of the file up to `size`. A second call goes on where the first one stopped.

        Raises:
            OSError: the file can't be read.
        """
        if size == self._to:
            return
        with open(path, "rb", buffering=0) as file:
            self._search(file.fileno(), size)
        self._to = size

    def _search(self, descriptor: int, size: int) -> None:
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
            self._left -= LOOK_COST
            if self._left <= 0:
                break
            at = match.start()
            length, checksum = HEAD.unpack_from(data, at - HEAD.size)
            stop = at + length
            if not MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES or stop > len(data) or data[stop - 1 : stop] != b"]":
                continue
            if zlib.crc32(memoryview(data)[at:stop]) == checksum:
                return at - HEAD.size
            self._left -= length
        return 0


def keep_rest(log: Path, start: int) -> Path:
    """Copies what lies in `log` from `start` on to a file beside it, and forces it to the disk. Whoever calls it has the log locked.

    Returns:
        The file: `records.log.damaged`, or the first of `records.log.damaged.1` and so on that is not there yet. It begins with a
        line that says where its content was.

    Raises:
        OSError: there is no room for it, or the log can't be read; there is no such file then.
    """
    before = len(_kept_files(log))
    kept = log.with_name(f"{log.name}.damaged{f'.{before}' if before else ''}")
    copying = log.with_name(f".{log.name}.damaged")
    try:
        with open(log, "rb") as source, open(copying, "wb") as file:
            source.seek(start)
            file.write(b"multisite-damaged-1 %d\n" % start)
            shutil.copyfileobj(source, file, CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        os.rename(copying, kept)
    except OSError:
        copying.unlink(missing_ok=True)
        raise
    return kept


def _kept_files(log: Path) -> list[Path]:
    found: list[Path] = []
    name = f"{log}.damaged"
    while os.path.exists(name):
        found.append(Path(name))
        name = f"{log}.damaged.{len(found)}"
    return found


@lru_cache(maxsize=256)
def _kept_rest(path: Path, size: int, changed: int) -> Rest:
    """What a kept file holds: it does not change any more, so it is read once."""
    with open(path, "rb") as file:
        head = KEPT_HEAD.match(file.readline(64))
    rest = Rest(0)  # the line is no frame
    rest.search(path, size)
    rest.start = int(head[1]) if head else 0
    return rest


def kept_rests(log: Path) -> list[Rest]:
    """What `keep_rest` kept of this log, each with its place there. Cheap where it kept nothing.

    Raises:
        OSError: one of the files can't be read.
    """
    found = [(path, path.stat()) for path in _kept_files(log)]
    return [_kept_rest(path, status.st_size, status.st_mtime_ns) for path, status in found]


def damage_text(log: Path, kept: list[Rest], rest: Rest | None) -> str:
    """What is wrong with a log, for people; empty if nothing.

    Args:
        log: its path.
        kept: what was kept of past damages.
        rest: what lies behind its last whole frame now; None if nothing.
    """
    places = [*kept, rest] if rest is not None and rest.records else kept
    if not places:
        return ""
    count = sum(place.records for place in places)
    least = "" if all(place.searched for place in places) else "at least "
    where = f"at byte {places[0].start}" if len(places) == 1 else f"at {len(places)} places, the first at byte {places[0].start}"
    then = f"; they are kept in {log.name}.damaged" if kept else ""
    return f"{log.name} is damaged {where}: {least}{count} record{'' if count == 1 else 's'} behind it can't be delivered{then}"
