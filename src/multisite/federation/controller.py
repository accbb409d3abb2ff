"""FedAvg whose final global model is evaluated too.

A site evaluates the global model that it receives, before it trains: so the model that the last round makes would never be
measured. One more task, `validate`, sends it to every site.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.controller_spec import Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg

from multisite.federation import bell
from multisite.federation.aggregator import ExactMean
from multisite.federation.timers import result_bell

FINAL_EVALUATION_SECONDS = 600


class EvaluatedFedAvg(FedAvg):
    """NVFlare's FedAvg (https://arxiv.org/abs/1602.05629), then one evaluation of the final global model on every site.

    The initial global model may be empty: the sites then start from their own (equally seeded) weights.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allow_empty_global_weights = True
        self.aggregator: ModelAggregator = getattr(self, "aggregator", None) or ExactMean()
        self._final: FLModel | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam: the server's own waits end when a result is there, and a site that waits when the run ends is told."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.AFTER_PROCESS_SUBMISSION:
            result_bell.ring()
        if event_type == EventType.ABOUT_TO_END_RUN:
            bell.ring(fl_ctx.get_engine(), fl_ctx)

    def broadcast(self, task: Task, fl_ctx: FLContext, *args: Any, **kwargs: Any) -> None:
        """NVFlare's own, and a ring: the task is there."""
        super().broadcast(task, fl_ctx, *args, **kwargs)
        bell.ring(self.engine, fl_ctx)

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: list[Any] | None = None,
        min_responses: int = 1,
        wait_time_after_min_received: int = 0,
        abort_signal: Signal | None = None,
    ) -> None:
        """NVFlare's own in two steps, to ring between them."""
        self.broadcast(task, fl_ctx, targets, min_responses, wait_time_after_min_received)
        self.communicator.wait_for_task(task, abort_signal)

    def save_model(self, model: FLModel) -> None:
        """Saves the model of a finished round, and remembers it as the final one so far."""
        super().save_model(model)
        self._final = model

    def run(self) -> None:
        """Runs the rounds, then the final evaluation."""
        super().run()
        if self._final is None or self.abort_signal.triggered:
            return
        final = FLModel(
            params=self._final.params,
            params_type=self._final.params_type,
            current_round=self.start_round + self.num_rounds,
            total_rounds=self.num_rounds,
        )
        self.fl_ctx.set_prop(AppConstants.CURRENT_ROUND, final.current_round, private=True, sticky=False)
        results = self.send_model_and_wait(
            task_name=AppConstants.TASK_VALIDATION,
            targets=self.sample_clients(self.num_clients),
            data=final,
            timeout=FINAL_EVALUATION_SECONDS,
        )
        self._keep_if_best(final, results)

    def _keep_if_best(self, final: FLModel, results: list[FLModel]) -> None:
        selector = self.engine.get_component("model_selector")
        accuracies = [result.metrics["accuracy"] for result in results if result.metrics]
        if not accuracies or sum(accuracies) / len(accuracies) <= selector.best_val_metric:
            return
        self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(final.params, final.meta), private=True, sticky=True)
        self.event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE)
