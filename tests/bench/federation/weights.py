"""Two files of weights, compared without NumPy: the host has none."""

from __future__ import annotations

import array
import json
import struct
from pathlib import Path


def read(path: Path) -> dict[str, array.array[float]]:
    """A safetensors file of float32 arrays (https://github.com/huggingface/safetensors: header length, JSON header, data)."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: array.array("f", data[entry["data_offsets"][0] : entry["data_offsets"][1]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def largest_difference(one: Path, other: Path) -> float:
    """Over every weight of two models; 0.0 means bit-equal.

    Raises:
        ValueError: they are not the same network.
    """
    ours, theirs = read(one), read(other)
    if {name: len(values) for name, values in ours.items()} != {name: len(values) for name, values in theirs.items()}:
        raise ValueError(f"{one} and {other} hold different networks")
    return max(abs(a - b) for name in ours for a, b in zip(ours[name], theirs[name], strict=True))
