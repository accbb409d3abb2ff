"""Frames, of which a record log is made: `length, crc32` (two little-endian uint32) and that many bytes."""

from __future__ import annotations

import struct
import zlib

MAGIC = b"multisite-records-1\n"
HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 1 << 20  # what bounds the memory for one record, and a site's message to the server
MIN_RECORD_BYTES = len("[0,0,{}]")
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
