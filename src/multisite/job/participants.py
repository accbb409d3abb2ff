"""Which sites take part in a job: the same ones in every round. Standard library only: the host's console draws them too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def draw(names: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` of the names, in alphabetical order; all of them where there are no more.

    It depends on the names, the number and the seed alone: each name's place is the SHA-256 of seed and name, so a site that leaves
    or joins changes no other's place.
    """
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return sorted(ranked[:count])
