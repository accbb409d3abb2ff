"""The final global model, as the sites measure it after the last round: one number for whoever reports it.

Its accuracy is the mean over the sites, every site alike: as in the rounds before, as NVFlare's model selector takes it, and as the
server's W&B run has it.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector

from multisite.job.progress import COMPLETE_EVENT
from multisite.job.results import ResultRefused, check_metrics

SOURCE = "final_evaluation"


class FinalEvaluation:
    """What the sites say of one model, the final one."""

    def __init__(self, model: FLModel, needs_accuracy: bool) -> None:
        """
        Args:
            model: the final global model; `current_round`: the rounds after which it is.
            needs_accuracy: whether a result without an accuracy is refused.
        """
        self.model, self.done = model, int(model.current_round or 0)
        self._needs_accuracy = needs_accuracy
        self._reports: list[dict[str, float]] = []

    def accept(self, result: FLModel) -> None:
        """Takes in one site's result.

        Raises:
            ResultRefused: its metrics are not what they may be; nothing of it was taken.
        """
        metrics = check_metrics(result.metrics)
        if self._needs_accuracy and "accuracy" not in metrics:
            raise ResultRefused("it has no accuracy")
        self._reports.append(metrics)

    @property
    def metrics(self) -> dict[str, float]:
        """Each number's mean over the sites that sent it."""
        names = {name: None for report in self._reports for name in report}
        return {name: statistics.fmean(report[name] for report in self._reports if name in report) for name in names}

    def publish(self, component: FLComponent, fl_ctx: FLContext) -> None:
        """Gives it to NVFlare's metrics files, to the model store if the model is the best so far, and to the job's report."""
        if self.metrics:
            component.fire_event_with_data(
                AppEventType.AFTER_AGGREGATION, fl_ctx, AppConstants.AGGREGATION_RESULT, self.as_aggregation()
            )
        selector = fl_ctx.get_engine().get_component("model_selector")
        if isinstance(selector, IntimeModelSelector) and (selection := self.selection(selector)):
            learnable = make_model_learnable(self.model.params, self.model.meta)
            fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, learnable, private=True, sticky=True)
            fl_ctx.set_prop(AppConstants.METRICS_SELECTION_INFO, selection, private=True, sticky=False)
            component.fire_event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE, fl_ctx)
        final = {**self.metrics, "round": self.done}
        component.fire_event_with_data(COMPLETE_EVENT, fl_ctx, FLContextKey.EVENT_DATA, final)

    def as_aggregation(self) -> FLModel:
        """What NVFlare's `MetricsArtifactWriter` takes as the last round's metrics (AFTER_AGGREGATION).

        Without it the job's `metrics_summary.json` gives the training rounds' last: the accuracy of the model before it.
        """
        info = {"metric_source": SOURCE, "metric_split": "test", "aggregation": {"method": "mean_over_sites"}}
        return FLModel(metrics=self.metrics, current_round=self.done, meta={AppConstants.METRICS_AGGREGATION_INFO: info})

    def selection(self, selector: IntimeModelSelector) -> dict[str, Any] | None:
        """What NVFlare's selector says when a model is the best so far, of the final one; None if it is not.

        The selector never gets to see the final model: its rounds are over. Both compare the mean over the sites of the selector's
        metric. Where a job has it weigh the sites, there is nothing to compare with: a final evaluation has no steps.
        """
        value = self.metrics.get(selector.key_metric)
        if value is None or selector.weigh_by_local_iter or selector.aggregation_weights:
            return None
        compared, best = -value if selector.negate_key_metric else value, float(selector.best_val_metric)
        if compared <= best or math.isclose(compared, best, rel_tol=1e-12):  # the selector's sum has another rounding
            return None
        mode = "min" if selector.negate_key_metric else "max"
        return {
            "source": type(selector).__name__,
            "metric_source": SOURCE,
            "key_metric": {"name": selector.key_metric, "mode": mode},
            "best_round": self.done,
            "best_metrics": {selector.key_metric: value},
        }
