"""FedAvg that no single site can spoil or hang, and whose final global model is evaluated too.

A site evaluates the global model that it receives, before it trains: so the model that the last round makes would never be
measured. One more task, `validate`, sends it to every site.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode, ServerCommandNames
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.f3.cellnet.defs import CellChannel
from nvflare.fuel.f3.cellnet.fqcn import FQCN

from multisite.cifar10.manifest import DTYPE, SHAPES
from multisite.job import messages as job_messages
from multisite.job.aggregator import ExactMean
from multisite.job.arguments import checked_network, checked_sites, checked_whole
from multisite.job.evaluation import FinalEvaluation
from multisite.job.options import MOST_SEED, MOST_STEPS
from multisite.job.participants import draw
from multisite.job.progress import PROBLEM_EVENT
from multisite.job.results import GlobalModelRefused, ResultRefused
from multisite.job.task_notice import notify_sites
from multisite.job.watch import SiteWatch
from multisite.text import clean
from multisite.tracking.receiver import ABORTED

WATCH_SECONDS = 1.0
TASK_CHECK_SECONDS = 0.02
ENGINE_CHECK_SECONDS = 0.2  # NVFlare looks every 3 s whether the run has ended, in its `start_run` (`fed_server.py`)


class JobStopped(Exception):
    """The job can't go on; why has been said."""


class EvaluatedFedAvg(FedAvg):
    """NVFlare's FedAvg (https://arxiv.org/abs/1602.05629), then one evaluation of the final global model on every site.

    The initial global model may be empty: the sites then start from their own (equally seeded) weights. The same sites take part in
    every round and in the evaluation; NVFlare itself draws them anew each round, by no seed.

    A result that is not what it may be, a site that is lost, and a site that fails end the job, with the site's name and the reason
    (`PROBLEM_EVENT`, NVFlare's panic). NVFlare itself logs an exception of the aggregator and goes on with the others' results.
    """

    def __init__(
        self,
        num_clients: int,
        num_rounds: int,
        network: str = "",
        most_steps: int = MOST_STEPS,
        persistor_id: str = "persistor",
        sites: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """
        Args:
            num_clients, num_rounds: how many sites take part, and in how many rounds.
            network: one of `cifar10/manifest.py`, whose arrays a site's result must have; empty: those of the first result.
            most_steps: the largest weight (local steps of a round) that a site's result may have.
            persistor_id: the persistor component's id.
            sites, seed: the names of those that take part; empty: drawn by the seed from those in the job, see `participants.py`.

        Raises:
            ValueError: an argument is none of these.
        """
        self.network, self.most_steps = checked_network(network), checked_whole("most_steps", most_steps, 1, MOST_STEPS)
        self.seed = checked_whole("seed", seed, 0, MOST_SEED)
        self.sites = checked_sites(sites, checked_whole("num_clients", num_clients, 1, sys.maxsize))
        expected = {name: (shape, DTYPE) for name, shape in SHAPES[network].items()} if network else None
        super().__init__(
            num_clients=num_clients,
            num_rounds=checked_whole("num_rounds", num_rounds, 1, sys.maxsize),
            persistor_id=persistor_id,
            task_check_period=TASK_CHECK_SECONDS,
            aggregator=ExactMean(expected, most_steps),
            allow_empty_global_weights=True,
        )
        self._final: FLModel | None = None
        self._watch = SiteWatch(reports=bool(network) and job_messages.NODE_VARIABLE in os.environ)
        self._running = threading.Event()
        self._problems: dict[str, str] = {}  # of sites; with the first one the job ends
        self._final_round, self._ended_by_abort = -1, False
        self._stopping = threading.Lock()

    # What the sites send besides results

    def start_controller(self, fl_ctx: FLContext) -> None:
        """NVFlare's controller seam: before the first round."""
        super().start_controller(fl_ctx)
        if (server := getattr(self.engine, "server", None)) is not None:
            server.check_engine_frequency = ENGINE_CHECK_SECONDS
        if (cell := self.engine.get_cell()) is None:
            return
        # A result that names arrays to be fetched from its site, of any size, is not fetched: it is refused as no arrays.
        cell.decode_pass_through_topics.add((CellChannel.SERVER_COMMAND, ServerCommandNames.SUBMIT_UPDATE))
        job_messages.receive(cell, job_messages.STATE, self._take_state)
        job_messages.receive(cell, job_messages.PROBLEM, self._take_problem)
        self._running.set()
        threading.Thread(target=self._look_for_problems, daemon=True, name="site-watch").start()

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """NVFlare's controller seam: after the last round."""
        self._running.clear()
        super().stop_controller(fl_ctx)

    def _take_state(self, site: str, report: dict[str, Any]) -> None:
        if self.sites and site not in self.sites:
            return  # the job was deployed there too, and does without
        self._watch.reported(site, str(report["state"]), str(report["task"]), int(report["round"]))
        if (error := clean(report["error"])) and error != self._problems.get(site):
            self._stop({site: error})

    def _take_problem(self, sender: str, content: dict[str, Any]) -> None:
        if sender == FQCN.ROOT_SERVER:
            self._watch.ended(str(content["site"]), clean(content["reason"]))

    def _look_for_problems(self) -> None:
        while self._running.is_set() and not self._problems:
            if problems := self._watch.problems():
                self._stop(problems)
            time.sleep(WATCH_SECONDS)

    def _stop(self, problems: dict[str, str]) -> None:
        """Says what is wrong, and ends the job. What a site says of itself replaces what was guessed; others only follow from the first."""
        with self._stopping:
            first = not self._problems
            if problems.keys() - self._problems.keys() and (not first or self.is_aborted()):
                return
            self._problems.update(problems)
        with self.engine.new_context() as fl_ctx:
            self.fire_event_with_data(PROBLEM_EVENT, fl_ctx, FLContextKey.EVENT_DATA, problems)
            if first:
                self.system_panic("; ".join(f"{site}: {reason}" for site, reason in problems.items()), fl_ctx)

    def _name_who_is_missing(self, reason: str) -> None:
        """NVFlare itself ends the job, for instance when it takes sites for dead: its reason has no names."""
        lost = dict.fromkeys(self._watch.owing(), f"its result has not come, and NVFlare ends the job: {reason}")
        with self._stopping:
            self._problems |= self._watch.problems() or lost or {FQCN.ROOT_SERVER: reason}
        with self.engine.new_context() as fl_ctx:
            self.fire_event_with_data(PROBLEM_EVENT, fl_ctx, FLContextKey.EVENT_DATA, dict(self._problems))

    # Tasks

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam: a site that waits for a task when the run ends is notified."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.ABOUT_TO_END_RUN:
            notify_sites(fl_ctx.get_engine(), fl_ctx)
        if event_type == EventType.FATAL_SYSTEM_ERROR and not self._problems and not self._ended_by_abort:
            self._name_who_is_missing(clean(fl_ctx.get_prop(FLContextKey.EVENT_DATA, "")))

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """NVFlare's own draws anew each round, and takes fewer where there are no more. Here they are the job's, each time.

        Raises:
            JobStopped: one is not there.
        """
        there = {client.name for client in self.engine.get_clients()}
        self.sites = self.sites or draw(there, self.num_clients, self.seed)
        if missing := set(self.sites) - there:
            self._stop(dict.fromkeys(sorted(missing), "NVFlare does not have it in this job; next: make status"))
        elif len(self.sites) < self.num_clients:
            self._stop({FQCN.ROOT_SERVER: f"the job wants {self.num_clients} sites and has {', '.join(self.sites) or 'none'}"})
        else:
            return list(self.sites)
        raise JobStopped("a site is missing")

    def broadcast(self, task: Task, fl_ctx: FLContext, *args: Any, **kwargs: Any) -> None:
        """NVFlare's own, with a look at whatever comes back; the sites are notified that the task is there."""
        process = task.result_received_cb

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            site = client_task.client.name
            try:
                self._take_result(site, client_task, fl_ctx, process)
            except Exception as error:  # NVFlare would log it, and the round would end without this site
                self._stop({site: f"its result is refused: it can't be read ({type(error).__name__})"})
            self._watch.answered(site)

        task.result_received_cb = received
        super().broadcast(task, fl_ctx, *args, **kwargs)
        notify_sites(self.engine, fl_ctx)

    def _take_result(self, site: str, client_task: ClientTask, fl_ctx: FLContext, process: Callable[..., None]) -> None:
        claimed = fl_ctx.get_peer_context().get_identity_name()  # what the site's process says; `site` is what NVFlare knows
        if not isinstance(claimed, str) or claimed != site:
            self._stop({site: f"its result is refused: it claims to be from {clean(claimed, 60)}"})
        if (code := client_task.result.get_return_code()) not in (None, ReturnCode.OK):
            self._stop({site: f"its executor failed ({clean(code, 60)})"})
        if self._problems:
            return  # the job ends: nothing more is taken in
        process(client_task, fl_ctx)
        if not self._problems and fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED) is not True:
            self._stop({site: "its result is refused: it can't be read"})

    def send_model(self, *, targets: list[str], data: FLModel, callback: Callable[[FLModel], Any], **kwargs: Any) -> None:
        """NVFlare's own; a result that `callback` refuses ends the job."""
        round_ = int(data.current_round or 0)

        def check(result: FLModel) -> bool:
            site = result.meta["client_name"]
            try:
                if callback(result) is False:
                    raise ResultRefused("it has no arrays")
            except GlobalModelRefused as refused:
                reason = f"the global model of {round_} rounds is none any more, as {site} measured it: {refused}"
                self._stop({FQCN.ROOT_SERVER: reason})
                return False
            except ResultRefused as refused:
                self._stop({site: f"its result of round {round_ + 1} is refused: {refused}"})
                return False
            return True

        self._watch.sent(str(kwargs["task_name"]), round_, targets)
        super().send_model(targets=targets, data=data, callback=check, **kwargs)

    def event(self, event_type: str) -> None:
        """NVFlare's own; before the aggregation every result has to be there.

        Raises:
            JobStopped: one is not, or was refused.
        """
        if event_type == AppEventType.BEFORE_AGGREGATION:
            self._require_every_result()
        super().event(event_type)

    def _require_every_result(self) -> None:
        if not self._problems and (missing := self._watch.owing()):
            problems = self._watch.problems()
            self._stop({site: problems.get(site, "it gave no result: lost, or failed") for site in missing})
        if self._problems:
            raise JobStopped("a site's result is missing or refused")

    def get_num_standing_tasks(self) -> int:
        """NVFlare's own, which looks every 0.2 s whether a task is done, and without a setting: this looks first."""
        self.communicator.check_tasks()
        return int(super().get_num_standing_tasks())

    # The run

    def save_model(self, model: FLModel) -> None:
        """Saves the model of a finished round, and remembers it as the final one so far."""
        super().save_model(model)
        self._final, self._final_round = model, self.current_round

    def run(self) -> None:
        """Runs the rounds, then the final evaluation. What does not come to its end is a failed job, whatever ended it."""
        try:
            super().run()
            self._finish()
        except JobStopped as stopped:
            if not self._problems:
                self._ended_by_abort = self.is_aborted()
                self.fl_ctx.set_prop(ABORTED, self._ended_by_abort, private=True, sticky=True)
                self.panic(str(stopped))

    def _finish(self) -> None:
        if self._final is None or self._final_round != self.start_round + self.num_rounds - 1:
            raise JobStopped(f"the job ended before the end of round {self.num_rounds}")
        final = FLModel(
            params=self._final.params,
            params_type=self._final.params_type,
            current_round=self.start_round + self.num_rounds,
            total_rounds=self.num_rounds,
        )
        self.fl_ctx.set_prop(AppConstants.CURRENT_ROUND, final.current_round, private=True, sticky=False)
        self._evaluate(final).publish(self, self.fl_ctx)

    def _evaluate(self, final: FLModel) -> FinalEvaluation:
        """Has every site measure the final global model.

        Raises:
            JobStopped: a site's result is missing.
        """
        evaluation = FinalEvaluation(final, needs_accuracy=bool(self.network))
        self.send_model(
            task_name=AppConstants.TASK_VALIDATION,
            targets=self.sample_clients(self.num_clients),
            data=final,
            callback=evaluation.accept,
        )
        while self.get_num_standing_tasks() and not self.abort_signal.triggered:
            time.sleep(TASK_CHECK_SECONDS)
        self._require_every_result()
        return evaluation
