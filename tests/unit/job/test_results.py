"""What a site may send back after a round, and what is refused before any of it is used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef

from multisite.cifar10.manifest import DTYPE, SHAPES
from multisite.cifar10.model import NETWORKS, build
from multisite.job.aggregator import ExactMean
from multisite.job.results import LARGEST_VALUE, GlobalModelRefused, ResultRefused, check_result

EXPECTED = {name: (shape, DTYPE) for name, shape in SHAPES["light"].items()}
STEPS = 196
FIRST, *_, LAST = EXPECTED


def weights() -> dict[str, Any]:
    return {name: value.numpy().copy() for name, value in build("light", 0).state_dict().items()}


def result(params: Any = None, steps: Any = STEPS, metrics: Any = None, **more: Any) -> FLModel:
    model = FLModel(params=weights() if params is None else params, meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: steps})
    model.metrics = {"accuracy": 0.5, "train_loss": 1.2} if metrics is None else metrics
    return model


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**weights(), name: value}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in weights().items() if key != name}


def with_value(value: float) -> dict[str, Any]:
    params = weights()
    params[LAST].flat[3] = value
    return params


@pytest.mark.parametrize("network", list(NETWORKS))
def test_the_manifest_is_what_the_network_has(network: str) -> None:
    state = build(network, 0).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES[network]
    assert {str(value.numpy().dtype) for value in state.values()} == {DTYPE}
    assert SHAPES.keys() == NETWORKS.keys()


def test_an_honest_result_is_accepted_and_its_metrics_are_numbers() -> None:
    honest = result(metrics={"accuracy": np.float32(0.5), "examples": np.int64(7)})
    check_result(honest, EXPECTED, STEPS, LARGEST_VALUE)
    assert {name: type(value) for name, value in honest.metrics.items()} == {"accuracy": float, "examples": float}


def test_a_result_that_is_bad_because_the_global_model_is_bad_is_not_the_sites_fault() -> None:
    with pytest.raises(GlobalModelRefused, match="loss"):
        check_result(result(metrics={"loss": math.nan}), EXPECTED, STEPS)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (result(with_value(math.nan)), f"array {LAST} has values that are not finite"),
        (result(with_value(math.inf)), "not finite"),
        (result(with_value(-math.inf)), "not finite"),
        (result({name: np.full((1,) * value.ndim, 0.5, np.float32) for name, value in weights().items()}), "has the shape"),
        (result(changed(FIRST, np.zeros(3, np.float32))), f"array {FIRST} has the shape [3], not [32, 12, 3, 3]"),
        (result({name: value.astype(np.int8) for name, value in weights().items()}), "is of type int8, not float32"),
        (result({name: value.astype("U8") for name, value in weights().items()}), "is of type <U8"),
        (result(changed(LAST, weights()[LAST].astype(np.float64))), "is of type float64, not float32"),
        (result(changed(LAST, weights()[LAST].astype(np.complex64))), "complex64"),
        (result(changed(LAST, np.array([{"a": 1}] * 10, dtype=object))), "is of type object"),
        (result(changed(LAST, [0.0] * 10)), "is no array but list"),
        (result(changed(LAST, object())), "is no array but object"),
        (
            result(changed(LAST, LazyDownloadRef("site-1", "ref", "item"))),
            "would have to be fetched; next: np_download_chunk_size: 0",
        ),
        (result(without(FIRST)), f"1 missing ({FIRST})"),
        (result({**weights(), "../../x": np.zeros(3, np.float32)}), "1 unknown (../../x)"),
        (result({**weights(), "\x1b[2Jx": np.zeros(3, np.float32)}), "1 unknown (x)"),
        (result({}), "it has no arrays"),
        (result(steps=1e12), "its weight is 1e+12 steps"),
        (result(steps=math.nan), "is no number"),
        (result(steps=math.inf), "is no number"),
        (result(steps=-8), "its weight is -8"),
        (result(steps=0), "its weight is 0"),
        (result(steps="8"), "is no number but '8'"),
        (result(steps=True), "is no number"),
        (result(metrics={"accuracy": math.nan}), "its metric accuracy is nan"),
        (result(metrics={"accuracy": 1e9}), "not between 0 and 1"),
        (result(metrics={"accuracy": "0.9"}), "its metric accuracy is no number but str"),
        (result(metrics={"accuracy": True}), "its metric accuracy is no number but bool"),
        (result(metrics={"train_loss": np.float32("nan")}), "its metric train_loss is nan"),
        (result(metrics={"train_loss": 10**400}), "its metric train_loss is 1000"),
        (result({name: np.full_like(value, 3e38) for name, value in weights().items()}), "has values beyond 10000"),
        (result(metrics={"train_loss": math.inf}), "its metric train_loss is inf"),
        (result(metrics={f"m{number}": 1.0 for number in range(20000)}), "at most 100 numbers"),
        (result(metrics={"a\x1b[31m": 1.0}), "a metric's name"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(bad: FLModel, reason: str) -> None:
    with pytest.raises(ResultRefused) as refused:
        check_result(bad, EXPECTED, STEPS, LARGEST_VALUE)
    assert reason in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("expected", [EXPECTED, None])
def test_a_refused_result_leaves_nothing_in_the_mean(expected: Any) -> None:
    good, bad = result(), result(changed(LAST, np.full(10, math.nan, np.float32)))
    mean = ExactMean(expected, STEPS)
    mean.accept_model(good)
    with pytest.raises(ResultRefused, match="not finite"):
        mean.accept_model(bad)
    for name, value in mean.aggregate_model().params.items():
        assert np.array_equal(value, good.params[name])


def test_without_a_manifest_the_first_model_says_what_the_next_rounds_must_be() -> None:
    mean = ExactMean()
    mean.accept_model(result({"w": np.ones((2, 2), np.float32)}))
    mean.aggregate_model()
    mean.reset_stats()
    with pytest.raises(ResultRefused, match=r"shape \[1, 2\], not \[2, 2\]"):
        mean.accept_model(result({"w": np.full((1, 2), 5, np.float32)}))
    with pytest.raises(ResultRefused, match="no site sent a model"):
        mean.aggregate_model()
