"""Frames, of which a record log is made: `length, crc32` (two little-endian uint32) and that many bytes."""

from __future__ import annotations

import os
import struct
import zlib

MAGIC = b"multisite-records-1\n"
HEAD = struct.Struct("<II")
# What bounds the memory for one record, and a site's message to the server. W&B's client drops a row of more than 10 MiB - 100 KiB, which
# is the record with its number and some more (`x_file_stream_max_line_bytes`).
MAX_RECORD_BYTES = 10_000_000
MIN_RECORD_BYTES = len("[0,0,{}]")
LEAST_FRAME_BYTES = HEAD.size + MIN_RECORD_BYTES
MAX_FRAME_BYTES = HEAD.size + MAX_RECORD_BYTES


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


def frame_at(descriptor: int, at: int, end: int) -> bytes | None:
    """The payload of the one frame at `at` in a file, if it is whole and ends at `end` or before."""
    head = os.pread(descriptor, HEAD.size, at)
    if len(head) < HEAD.size:
        return None
    stop = at + HEAD.size + HEAD.unpack(head)[0]
    if not LEAST_FRAME_BYTES <= stop - at <= MAX_FRAME_BYTES or stop > end:
        return None
    payloads, _ = whole_frames(os.pread(descriptor, stop - at, at))
    return payloads[0] if payloads else None
