"""The mean of the sites' models: weighted by steps, and the same in any order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel

from multisite.job.aggregator import ExactMean
from multisite.job.results import ResultRefused


def model(seed: int, steps: int) -> FLModel:
    numbers = np.random.default_rng(seed)
    params = {"w": numbers.standard_normal((3, 5)).astype(np.float32), "b": numbers.standard_normal(7).astype(np.float32)}
    return FLModel(params=params, metrics={"loss": float(seed)}, meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: steps})


def mean_of(models: list[FLModel]) -> FLModel:
    aggregator = ExactMean()
    for one in models:
        aggregator.accept_model(one)
    return aggregator.aggregate_model()


def test_a_site_weighs_as_many_steps_as_it_made() -> None:
    models = [
        FLModel(params={"w": np.float32([value])}, meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: steps})
        for value, steps in ((1, 3), (5, 1))
    ]
    assert mean_of(models).params["w"].tolist() == [2.0]


def test_the_order_of_arrival_leaves_no_trace_in_any_bit() -> None:
    models = [model(seed, steps) for seed, steps in enumerate((7, 196, 31, 50, 12))]
    first, *others = [mean_of(list(order)) for order in itertools.permutations(models)]
    for other in others:
        assert all(np.array_equal(first.params[name], other.params[name]) for name in first.params)


def test_arrays_keep_their_type_and_metrics_are_averaged_by_the_same_weights() -> None:
    result = mean_of([model(0, 1), model(4, 3)])
    assert {value.dtype for value in result.params.values()} == {np.dtype(np.float32)}
    assert result.metrics == {"loss": 3.0}


def test_a_site_with_another_network_is_an_error_that_names_the_arrays() -> None:
    with pytest.raises(ResultRefused, match=r"1 unknown \(extra\)"):
        mean_of([model(0, 1), FLModel(params={**model(1, 1).params, "extra": np.zeros(1)})])


def test_a_round_begins_with_nothing_of_the_last_one() -> None:
    aggregator = ExactMean()
    aggregator.accept_model(model(0, 1))
    aggregator.reset_stats()
    aggregator.accept_model(model(1, 1))
    assert np.array_equal(aggregator.aggregate_model().params["w"], model(1, 1).params["w"])
