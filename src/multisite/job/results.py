"""What a site may send back after a round of training: checked before anything of it is used.

One site's result changes everybody's model, so what does not fit ends the job (`controller.py`). The checks know nothing of who is
honest: they compare with the network's manifest or the global model, never with another site's result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef

from multisite.text import clean

Expected = Mapping[str, tuple[tuple[int, ...], str]]  # array's name -> shape, type

MOST_METRICS = 100
LONGEST_METRIC_NAME = 100
LARGEST_NUMBER = 1e300
SHARES = ("accuracy", "train_accuracy")  # between 0 and 1; the best model is chosen by the first
OF_THE_GLOBAL_MODEL = ("accuracy", "loss")  # what a site measures before it trains
LARGEST_VALUE = 1e4  # of a known network's arrays: where they train, they stay below 100
SHOWN = 3
WHOLE = "np_download_chunk_size: 0 in the job's config_fed_client.json"
DIVERGED = "the training diverged, or the site is at fault; next: a smaller LR"


class ResultRefused(Exception):
    """A site's result is not used. The message says why, without the site's name."""


class GlobalModelRefused(ResultRefused):
    """A site measured the global model, and it is no model any more: whose fault that is, this result does not say."""


def expected_of(params: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """The names, shapes and types of a model that was accepted."""
    return {name: (tuple(value.shape), str(value.dtype)) for name, value in params.items()}


def check_result(model: FLModel, expected: Expected | None, most_steps: float, largest: float = math.inf) -> None:
    """Checks a result of training, and makes its metrics numbers.

    Args:
        model: as the site sent it.
        expected: the network's arrays; None where nobody knows them yet: any names and shapes then, of floating-point arrays.
        most_steps: the largest weight (NUM_STEPS_CURRENT_ROUND) that the job's settings allow.
        largest: the largest value of an array, without its sign.

    Raises:
        ResultRefused: it is not used.
    """
    if model.params_type not in (None, ParamsType.FULL, ParamsType.FULL.value):
        raise ResultRefused(f"it is not a whole model but {clean(model.params_type, 40)}")
    params = model.params
    if not isinstance(params, dict) or not params:
        raise ResultRefused("it has no arrays")
    if expected is not None:
        _check_names(params, expected)
    for name, value in params.items():
        _check_array(name, value, expected[name] if expected is not None else None, largest)
    _check_weight((model.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND), most_steps)
    model.metrics = check_metrics(model.metrics)


def check_metrics(metrics: object) -> dict[str, float]:
    """The numbers that a site reports with a model.

    Raises:
        GlobalModelRefused: the global model's are not finite.
        ResultRefused: too many, no finite numbers, or a share that is none.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, dict) or len(metrics) > MOST_METRICS:
        raise ResultRefused(f"its metrics are not a dictionary of at most {MOST_METRICS} numbers")
    checked = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_METRIC_NAME or clean(name) != name:
            raise ResultRefused(f"a metric's name is not a short line of text: {clean(name, 40)!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise ResultRefused(f"its metric {name} is no number but {clean(type(value).__name__, 40)}")
        if not abs(float(value) if isinstance(value, np.generic) else value) <= LARGEST_NUMBER:
            problem = GlobalModelRefused if name in OF_THE_GLOBAL_MODEL else ResultRefused
            raise problem(f"its metric {name} is {clean(value, 40)}: {DIVERGED}")
        if name in SHARES and not 0 <= value <= 1:
            raise ResultRefused(f"its metric {name} is {value:g}, not between 0 and 1")
        checked[name] = float(value)
    return checked


def _check_names(params: dict[Any, Any], expected: Expected) -> None:
    missing = [name for name in expected if name not in params]
    extra = [clean(name, 60) for name in params if name not in expected]
    if missing or extra:
        found = [f"{len(names)} {what} ({_some(names)})" for names, what in ((missing, "missing"), (extra, "unknown")) if names]
        raise ResultRefused(f"its arrays are not the network's: {', '.join(found)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _check_array(name: str, value: object, expected: tuple[tuple[int, ...], str] | None, largest: float) -> None:
    if isinstance(value, LazyDownloadRef):
        raise ResultRefused(f"array {clean(name, 60)} is not in the result, but would have to be fetched; next: {WHOLE}")
    if not isinstance(value, np.ndarray):
        raise ResultRefused(f"{clean(name, 60)} is no array but {clean(type(value).__name__, 40)}")
    shape, dtype = expected if expected is not None else (value.shape, str(value.dtype))
    if str(value.dtype) != dtype or value.dtype.kind != "f":
        raise ResultRefused(f"array {clean(name, 60)} is of type {value.dtype}, not {dtype if expected else 'floating-point'}")
    if value.shape != tuple(shape):
        raise ResultRefused(f"array {name} has the shape {list(value.shape)}, not {list(shape)}")
    if not np.isfinite(value).all():
        raise ResultRefused(f"array {clean(name, 60)} has values that are not finite (NaN or infinity): {DIVERGED}")
    if value.size and np.abs(value).max() > largest:
        raise ResultRefused(f"array {clean(name, 60)} has values beyond {largest:g}: {DIVERGED}")


def _check_weight(steps: object, most: float) -> None:
    if steps is None:
        return  # counts as one step
    if isinstance(steps, bool) or not isinstance(steps, (int, float)) or not math.isfinite(steps):
        raise ResultRefused(f"its weight (steps of this round) is no number but {clean(steps, 40)!r}")
    if not 0 < steps <= most:
        raise ResultRefused(
            f"its weight is {steps:g} steps, and this job allows more than 0 and at most {most:g}; next: MAX_EXAMPLES"
        )
