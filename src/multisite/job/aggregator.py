"""The weighted mean of the sites' models, the same whatever order they arrive in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator

from multisite.job.results import LARGEST_VALUE, Expected, ResultRefused, check_result, expected_of


class ExactMean(ModelAggregator):
    """FedAvg's mean, weighted by local steps (https://arxiv.org/abs/1602.05629), added in float64.

    A float32 weight times a whole number of steps is exact in float64, and so is the sum over the sites unless their values differ
    by a factor of a million: so the order of arrival, which no run repeats, leaves no trace. NVFlare's own mean adds in float32.
    It holds one sum, however many sites there are. What a site sends is checked before any of it is added, see `results.py`.
    """

    def __init__(self, expected: Expected | None = None, most_steps: float = math.inf) -> None:
        """
        Args:
            expected: the network's arrays; None: those of the first result, from then on.
            most_steps: the largest weight that a site may have.
        """
        super().__init__()
        self._expected = expected
        self._most_steps = most_steps
        self._largest = LARGEST_VALUE if expected else math.inf
        self.reset_stats()

    def reset_stats(self) -> None:
        """Before a round."""
        self._sums: dict[str, np.ndarray[Any, Any]] = {}
        self._types: dict[str, np.dtype[Any]] = {}
        self._metrics: dict[str, list[tuple[float, float]]] = {}
        self._weight = 0.0
        self._params_type: Any = None

    def accept_model(self, model: FLModel) -> None:
        """Adds one site's model, whole or not at all.

        Raises:
            ResultRefused: it is not what a result may be; nothing of it was added.
        """
        check_result(model, self._expected, self._most_steps, self._largest)
        self._expected = self._expected or expected_of(model.params)
        weight = float((model.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND) or 1.0)
        for name, value in model.params.items():
            product = np.multiply(value, weight, dtype=np.float64)
            if name in self._sums:
                self._sums[name] += product
            else:
                self._sums[name], self._types[name] = product, value.dtype
        for name, number in model.metrics.items():
            self._metrics.setdefault(name, []).append((number, weight))
        self._weight += weight
        self._params_type = model.params_type

    def aggregate_model(self) -> FLModel:
        """The mean, in the arrays' own types, and the sites' mean metrics.

        Raises:
            ResultRefused: there is nothing to average.
        """
        if not self._sums:
            raise ResultRefused("no site sent a model")
        params = {name: (total / self._weight).astype(self._types[name]) for name, total in self._sums.items()}
        metrics = {
            name: sum(number * weight for number, weight in pairs) / sum(weight for _, weight in pairs)
            for name, pairs in self._metrics.items()
        }
        return FLModel(params_type=self._params_type, params=params, metrics=metrics or None, meta={})
