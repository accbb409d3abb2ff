"""Damaged bytes of a record log: where they end, how many records they were, and what stands in their place.

Nothing is mended in the file. Whoever reads a log passes over damaged bytes to the next whole frame, and gets fillers for them: frames
that say that a record is lost, and that together are exactly as long as the damaged bytes. So every record behind a damage keeps its
place and its number, on the site and in the server's copy, and what is logged after a damage is never taken for something that was
there before. A site sends the fillers as it sends records: the server takes whole frames only. What the server had received before the
damage stays there as it was.

How many records the damaged bytes were is exact where one frame is hit, or the lengths of all are whole. Else it is the most that there can
have been, for damage that leaves no text (changed bits, zeros, noise): with too small a number later records would get the numbers of
delivered ones, and be passed over; with too large a one some that were delivered before are sent again under other numbers.

At the end of a log a frame that is not complete, and zeros, are no damage: their writer was killed, or the power failed.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multisite.tracking.frames import HEAD, LEAST_FRAME_BYTES, MAX_FRAME_BYTES, MAX_RECORD_BYTES, MIN_RECORD_BYTES, frame_at

CHUNK_BYTES = 1 << 20  # in memory, beside one frame
SEARCH_COST = 256 << 20  # of one reader: bytes that are summed because they look like frames, at most
LOOK_COST = 256  # of it, for one look at what may be the start of a frame
# A record begins behind a length that it may have, and a checksum.
RECORD_START = re.compile(rb"\[(?<=[\x00-" + bytes([MAX_RECORD_BYTES >> 16]) + rb"]\x00.{4}\[)", re.DOTALL)
NO_TEXT = re.compile(rb"[^ -~].{0,%d}" % (LEAST_FRAME_BYTES - 1), re.DOTALL)  # every head has such a byte; a record has none
FILLER = re.compile(rb"\[broken(?: (\d{1,19}))?(?: ([A-Za-z0-9_-][A-Za-z0-9._-]{0,127}))? *\]")


def _chunks(descriptor: int, start: int, end: int, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
    while start + overlap < end and (data := os.pread(descriptor, min(CHUNK_BYTES, end - start), start)):
        yield start, data
        start += max(1, len(data) - overlap)


def _is_length(length: int) -> bool:
    return MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES


def find_frame(descriptor: int, start: int, end: int, most: int) -> tuple[int | None, int]:
    """The first whole frame of a file that begins behind `start`.

    Args:
        descriptor: of the file.
        start: where it may not begin.
        end: of what is searched.
        most: what the search may cost; behind that `end` is the answer.

    Returns:
        Where it begins, None if there is none; and the cost.
    """
    cost = 0
    for at, data in _chunks(descriptor, start + 1, end, overlap=HEAD.size):
        for match in RECORD_START.finditer(data, HEAD.size):
            cost += LOOK_COST
            head = match.start() - HEAD.size
            length, _ = HEAD.unpack_from(data, head)
            stop = at + head + HEAD.size + length
            if _is_length(length) and stop <= end:
                cost += length
                if frame_at(descriptor, at + head, end) is not None:
                    return at + head, cost
            if cost > most:
                return end, cost
    return None, cost


def is_torn(descriptor: int, start: int, end: int) -> bool:
    """Whether what lies from `start` to the `end` of a file, without a whole frame, is a frame that is not complete, or zeros."""
    last = start
    for at, data in _chunks(descriptor, start, end):
        last = at + len(text) if (text := data.rstrip(b"\0")) else last
    if last - start < HEAD.size or end - start < LEAST_FRAME_BYTES:
        return True
    length, _ = HEAD.unpack(os.pread(descriptor, HEAD.size, start))
    stop = start + HEAD.size + length
    return _is_length(length) and stop != end and stop > last and not _is_one_record(descriptor, start, end)


def _is_one_record(descriptor: int, start: int, end: int) -> bool:
    """Whether it is a whole frame but for its length."""
    if end - start > MAX_FRAME_BYTES:
        return False
    data = os.pread(descriptor, end - start, start)
    _, checksum = HEAD.unpack_from(data)
    return bool(zlib.crc32(memoryview(data)[HEAD.size :]) == checksum)


def _count_records(descriptor: int, start: int, end: int) -> int:
    """How many records there were: exactly, or at most."""
    at, count = start, 0
    while at + LEAST_FRAME_BYTES <= end and _is_length(length := HEAD.unpack(os.pread(descriptor, HEAD.size, at))[0]):
        at, count = at + HEAD.size + length, count + 1
    if at == end:
        return count
    if _is_one_record(descriptor, start, end):
        return 1
    return sum(sum(1 for _ in NO_TEXT.finditer(data)) for _, data in _chunks(descriptor, start, end))


@dataclass(frozen=True)
class Damage:
    """Damaged bytes of a log.

    Attributes:
        start, end: where they lie.
        count: of the fillers in their place.
        disk: the site on whose disk they are; empty if that is clear.
    """

    start: int
    end: int
    count: int
    disk: str = ""

    @classmethod
    def of(cls, descriptor: int, start: int, end: int, disk: str) -> Damage:
        """What lies from `start` to `end` of a file: LEAST_FRAME_BYTES bytes or more."""
        size = end - start
        count = max(1, _count_records(descriptor, start, end), -(-size // MAX_FRAME_BYTES))
        return cls(start, end, min(count, size // LEAST_FRAME_BYTES), disk)

    def fillers(self, offset: int, max_bytes: int) -> list[bytes]:
        """Payloads of the fillers from `offset` on, of about `max_bytes` together; at least one."""
        short, longer = divmod(self.end - self.start, self.count)  # so many are one byte longer
        at = offset - self.start
        index = at // (short + 1) if at < longer * (short + 1) else longer + (at - longer * (short + 1)) // short
        number = max(1, max_bytes // (short + 1))
        return [self._filler(short + (n < longer) - HEAD.size) for n in range(index, min(self.count, index + number))]

    def _filler(self, length: int) -> bytes:
        texts = [f"[broken {self.start} {self.disk}", f"[broken {self.start}", "[broken"]
        text = next(text.rstrip() for text in texts if len(text.rstrip()) < length)
        return text.encode().ljust(length - 1) + b"]"


def lost_reason(payload: bytes) -> str:
    """Why there is no record in this one's place, for people; empty if the payload is no filler."""
    found = FILLER.fullmatch(payload)
    if not found:
        return ""
    byte, disk = (part.decode() if part else "" for part in found.groups())
    where = f" of {disk}" if disk else ""
    return (
        f"damaged on the disk{where}{f', at byte {byte} of records.log' if byte else ''}; next: look at the disk{where}: it is lost"
    )


def kept_text(log: Path) -> str:
    """What an earlier version kept of a damaged log, for people; empty if nothing."""
    kept = log.with_name(f"{log.name}.damaged")
    if not kept.exists():
        return ""
    return f"{kept.name} holds records behind a damage that were not delivered; next: look at the disk, then delete {kept.name}"
