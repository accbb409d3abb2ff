"""The division of a training set among sites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisite.cifar10.partition import MINIMUM_EXAMPLES, Partition, PartitionError

EXAMPLES = 2_000
LABELS = np.random.default_rng(7).integers(0, 10, EXAMPLES).astype(np.uint8)
SITES = st.integers(1, 8)
SEEDS = st.integers(0, 2**31 - 1)
ALPHAS = st.none() | st.floats(0.3, 100.0)


def distributions(parts: list[np.ndarray]) -> np.ndarray:
    """[sites, classes] share of each class within each site."""
    counts = np.stack([np.bincount(LABELS[part], minlength=10) for part in parts])
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


@settings(max_examples=60, deadline=None, database=None)
@given(sites=SITES, alpha=ALPHAS, seed=SEEDS)
def test_a_partition_covers_every_example_exactly_once(sites: int, alpha: float | None, seed: int) -> None:
    parts = Partition(sites, alpha, seed).split(LABELS)
    assert len(parts) == sites
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(EXAMPLES))
    assert all(len(part) >= MINIMUM_EXAMPLES for part in parts)
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


@settings(max_examples=30, deadline=None, database=None)
@given(sites=SITES, alpha=ALPHAS, seed=SEEDS)
def test_the_same_seed_gives_the_same_split(sites: int, alpha: float | None, seed: int) -> None:
    first, second = (Partition(sites, alpha, seed).split(LABELS) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_another_seed_gives_another_split(alpha: float | None) -> None:
    first, second = (Partition(2, alpha, seed).split(LABELS)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)


@settings(max_examples=30, deadline=None, database=None)
@given(sites=SITES, seed=SEEDS)
def test_iid_shards_differ_by_one_example_at_most(sites: int, seed: int) -> None:
    sizes = [len(part) for part in Partition(sites, None, seed).split(LABELS)]
    assert max(sizes) - min(sizes) <= 1


def test_a_small_alpha_skews_classes_more_than_a_large_one() -> None:
    spread = {alpha: np.mean([distributions(Partition(4, alpha, seed).split(LABELS)).std(axis=0) for seed in range(5)])
              for alpha in (0.3, 100.0)}  # fmt: skip
    assert spread[0.3] > 3 * spread[100.0]


@pytest.mark.parametrize(
    ("partition", "name"),
    [
        (Partition(2, None, 0), "iid-seed0"),
        (Partition(5, 0.5, 7), "dirichlet0.5-seed7"),
        (Partition(3, 1.0, 0), "dirichlet1-seed0"),
    ],
)
def test_a_partition_names_its_folder(partition: Partition, name: str) -> None:
    assert partition.name == name


@pytest.mark.parametrize("alpha", [None, 0.001, 0.5])
def test_an_impossible_partition_is_an_error_that_names_its_numbers(alpha: float | None) -> None:
    with pytest.raises(PartitionError) as failed:
        Partition(sites=9, alpha=alpha, seed=3).split(LABELS[:80])
    message = str(failed.value)
    for part in (f"alpha={alpha}", "sites=9", "seed=3", f"fewer than {MINIMUM_EXAMPLES}", "next:"):
        assert part in message


def test_a_shard_of_exactly_the_minimum_is_accepted() -> None:
    parts = Partition(sites=8, alpha=None, seed=0).split(LABELS[: 8 * MINIMUM_EXAMPLES])
    assert [len(part) for part in parts] == [MINIMUM_EXAMPLES] * 8
