"""Which sites a job's seed draws."""

from __future__ import annotations

import random

import pytest

from multisite.job.participants import draw

EIGHT = [f"site-{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    ("names", "count", "seed", "drawn"),
    [
        (EIGHT[:3], 2, 0, ["site-1", "site-3"]),
        (EIGHT[:3], 2, 2, ["site-1", "site-2"]),
        (EIGHT, 3, 7, ["site-3", "site-5", "site-6"]),
    ],
)
def test_the_draw_is_this_one_on_every_machine_and_with_every_version(
    names: list[str], count: int, seed: int, drawn: list[str]
) -> None:
    assert draw(names, count, seed) == drawn


def test_the_order_of_the_names_does_not_matter_and_no_name_counts_twice() -> None:
    shuffled = random.Random(1).sample(EIGHT, 8)
    assert draw(shuffled + EIGHT, 5, 3) == draw(EIGHT, 5, 3)


@pytest.mark.parametrize("count", range(9))
def test_as_many_different_sites_are_drawn_as_are_wanted(count: int) -> None:
    drawn = draw(EIGHT, count, 0)
    assert len(drawn) == len(set(drawn)) == count
    assert set(drawn) <= set(EIGHT)
    assert drawn == sorted(drawn)


def test_of_no_more_sites_than_are_wanted_all_take_part() -> None:
    assert draw(EIGHT, 9, 0) == draw(EIGHT, 8, 5) == EIGHT


def test_every_site_is_drawn_about_as_often_as_any_other() -> None:
    times = dict.fromkeys(EIGHT, 0)
    for seed in range(4000):
        for site in draw(EIGHT, 2, seed):
            times[site] += 1
    assert all(900 < count < 1100 for count in times.values())


def test_a_site_that_leaves_is_replaced_and_the_others_stay() -> None:
    before = draw(EIGHT, 4, 2)
    after = draw([site for site in EIGHT if site != before[0]], 4, 2)
    assert len(set(before) & set(after)) == 3
