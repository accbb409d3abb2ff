"""How the training set is divided among sites: IID, or Dirichlet by class (https://arxiv.org/abs/1909.06335)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MINIMUM_EXAMPLES = 10
DRAWS = 100


class PartitionError(ValueError):
    """No acceptable partition exists for these numbers."""


@dataclass(frozen=True)
class Partition:
    """A reproducible division of a training set.

    Attributes:
        sites: number of shards.
        alpha: Dirichlet concentration; None divides IID.
        seed: of the division.

    Raises:
        PartitionError: a number is out of range.
    """

    sites: int
    alpha: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.sites < 1:
            raise PartitionError(f"{self.sites} sites can't share a training set\n  next: name one site or more")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise PartitionError(f"alpha={self.alpha} is no Dirichlet concentration\n  next: a number above 0, or none for IID")
        if self.seed < 0:
            raise PartitionError(f"seed={self.seed} is negative\n  next: 0 or a larger whole number")

    @property
    def name(self) -> str:
        """Names the shard's folder, for example `dirichlet0.5-seed0`.

        Without the number of shards: a site that brings its own data joins a job with sites that were given theirs.
        """
        kind = "iid" if self.alpha is None else f"dirichlet{self.alpha:g}"
        return f"{kind}-seed{self.seed}"

    def split(self, labels: np.ndarray) -> list[np.ndarray]:
        """Divides the examples.

        Args:
            labels: [examples] class of each example.

        Returns:
            For each site its examples' sorted indices; disjoint, together all of them.

        Raises:
            PartitionError: a site would get fewer than MINIMUM_EXAMPLES in every draw.
        """
        random = np.random.default_rng(self.seed)
        if self.alpha is None:
            return self._checked([np.sort(part) for part in np.array_split(random.permutation(len(labels)), self.sites)])
        for _ in range(DRAWS):
            parts = self._dirichlet(labels, random)
            if min(len(part) for part in parts) >= MINIMUM_EXAMPLES:
                return parts
        return self._checked(parts)

    def _dirichlet(self, labels: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
        assert self.alpha is not None
        shares: list[list[np.ndarray]] = [[] for _ in range(self.sites)]
        for label in np.unique(labels):
            indices = random.permutation(np.flatnonzero(labels == label))
            proportions = random.dirichlet(np.full(self.sites, self.alpha))
            cuts = (np.cumsum(proportions)[:-1] * len(indices)).round().astype(int)
            for share, part in zip(shares, np.split(indices, cuts), strict=True):
                share.append(part)
        return [np.sort(np.concatenate(share)) for share in shares]

    def _checked(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        smallest = min(len(part) for part in parts)
        if smallest < MINIMUM_EXAMPLES:
            raise PartitionError(
                f"with alpha={self.alpha}, sites={self.sites}, seed={self.seed} a site gets {smallest} examples, "
                f"fewer than {MINIMUM_EXAMPLES}\n  next: a larger alpha, fewer sites or another seed"
            )
        return parts
