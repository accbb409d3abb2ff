"""What the controller does with what comes back: one round with NVFlare's own controller, and its communicator replaced."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, ReservedKey, ReturnCode, ServerCommandNames
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import new_cell_message

from multisite.cifar10.manifest import DTYPE, SHAPES
from multisite.job import controller as module
from multisite.job import messages as job_messages
from multisite.job.aggregator import ExactMean
from multisite.job.controller import EvaluatedFedAvg
from multisite.job.progress import PROBLEM_EVENT

SITES = ("site-1", "site-2")


def weights(value: float = 0.5) -> dict[str, Any]:
    return {name: np.full(shape, value, DTYPE) for name, shape in SHAPES["light"].items()}


def result(params: Any = None, steps: float = 10, **metrics: float) -> Shareable:
    model = FLModel(
        params=weights() if params is None else params,
        metrics={"accuracy": 0.5, **metrics},
        meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: steps},
    )
    return FLModelUtils.to_shareable(model)


class Persistor(ModelPersistor):
    """Keeps what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[dict[str, Any]] = []

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        return make_model_learnable({}, {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        self.saved.append(model[ModelLearnableKey.WEIGHTS])


class Engine:
    """The server's engine in a job's process, with two sites in it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.persistor = Persistor()
        self.controller: FedAvg | None = None
        self.aborted = Signal()
        self.contexts = FLContextManager(
            engine=self, identity_name="server", job_id="job-1", public_stickers={}, private_stickers={}
        )

    def new_context(self) -> FLContext:
        return self.contexts.new_context()

    def get_clients(self) -> list[Client]:
        return [Client(name, name) for name in SITES]

    def get_component(self, name: str) -> Any:
        return self.persistor if name == "persistor" else None

    def get_cell(self) -> None:
        return None

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append((event_type, fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
        if self.controller is not None:
            self.controller.handle_event(event_type, fl_ctx)
        if event_type == EventType.FATAL_SYSTEM_ERROR:  # as NVFlare's server runner does
            self.aborted.trigger(True)

    def send_aux_request(self, **_: Any) -> None:
        """A notice to the sites."""

    def said(self, event_type: str) -> list[Any]:
        return [data for name, data in self.events if name == event_type]


class Communicator(WFCommServer):
    """Answers every task at once, with what the test has for it."""

    def __init__(self, answers: Callable[[str, str], Shareable | None], claims: dict[str, str]) -> None:
        super().__init__()
        self.answers, self.claims = answers, claims
        self.engine: Any = None

    def broadcast(self, task: Task, fl_ctx: FLContext, targets: Any = None, *_: Any, **__: Any) -> None:
        for site in targets:
            answer = self.answers(task.name, site)
            if answer is None:
                continue  # it never comes, and NVFlare gives the site up
            context = self.engine.new_context()
            peer = FLContext()
            peer.set_prop(ReservedKey.IDENTITY_NAME, self.claims.get(site, site), private=False, sticky=True)
            context.set_peer_context(peer)
            client_task = ClientTask(Client(site, site), task)
            client_task.result = answer
            with contextlib.suppress(Exception):  # as `WFCommServer._do_process_submission`: it logs it, and the task goes on
                task.result_received_cb(client_task, context)

    def get_num_standing_tasks(self) -> int:
        return 0

    def check_tasks(self) -> None:
        """NVFlare's: there are none."""


class Run:
    """A job of one round that has ended."""

    def __init__(
        self, controller: FedAvg, answers: Callable[[str, str], Shareable | None], claims: dict[str, str] | None = None
    ) -> None:
        self.engine, self.controller = Engine(), controller
        communicator = Communicator(answers, claims or {})
        communicator.engine = self.engine
        self.engine.controller = controller
        controller.set_communicator(communicator)
        with self.engine.new_context() as fl_ctx:
            controller.initialize(fl_ctx)
            controller.control_flow(self.engine.aborted, fl_ctx)

    @property
    def problems(self) -> dict[str, str]:
        return {site: reason for said in self.engine.said(PROBLEM_EVENT) for site, reason in said.items()}

    @property
    def failed(self) -> bool:
        return bool(self.engine.said(EventType.FATAL_SYSTEM_ERROR))

    @property
    def saved(self) -> list[dict[str, Any]]:
        return self.engine.persistor.saved


def ours() -> EvaluatedFedAvg:
    return EvaluatedFedAvg(num_clients=2, num_rounds=1, network="light", most_steps=100)


def honest(task: str, site: str) -> Shareable:
    if task == AppConstants.TASK_VALIDATION:
        return FLModelUtils.to_shareable(FLModel(metrics={"accuracy": 0.6}))
    return result()


def but(site: str, answer: Shareable | None, task: str = AppConstants.TASK_TRAIN) -> Callable[[str, str], Shareable | None]:
    return lambda name, who: answer if (name, who) == (task, site) else honest(name, who)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "notify_sites", lambda *_: None)


def test_two_honest_sites_complete_a_job_and_its_final_evaluation() -> None:
    run = Run(ours(), honest)
    assert (run.problems, run.failed) == ({}, False)
    assert len(run.saved) == 1
    assert run.engine.said(module.COMPLETE_EVENT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            result({**weights(), "head.bias": np.full(10, math.nan, np.float32)}),
            "its result of round 1 is refused: array head.bias",
        ),
        (result({name: value[:1] for name, value in weights().items()}), "has the shape"),
        (result(steps=101), "its weight is 101 steps"),
        (result(accuracy=7.0), "not between 0 and 1"),
        (result({}), "it has no arrays"),
        (make_reply(ReturnCode.EXECUTION_EXCEPTION), "its executor failed (EXECUTION_EXCEPTION)"),
        (Shareable(), "can't be read"),
        (None, "it gave no result"),
    ],
)
def test_what_site_2_sends_ends_the_job_under_its_name_and_leaves_no_model(answer: Shareable | None, reason: str) -> None:
    run = Run(ours(), but("site-2", answer))
    assert list(run.problems) == ["site-2"]
    assert reason in run.problems["site-2"]
    assert run.failed
    assert run.saved == []
    assert not run.engine.said(AppEventType.BEFORE_AGGREGATION)
    assert not run.engine.said(module.COMPLETE_EVENT)


def test_a_final_evaluation_that_a_site_does_not_give_is_no_completed_job() -> None:
    run = Run(ours(), but("site-1", None, AppConstants.TASK_VALIDATION))
    assert list(run.problems) == ["site-1"]
    assert run.failed
    assert len(run.saved) == 1  # the last good model is kept


def test_a_result_that_claims_to_be_another_sites_is_refused_under_its_senders_name() -> None:
    run = Run(ours(), honest, claims={"site-2": "site-1"})
    assert list(run.problems) == ["site-2"]
    assert "claims to be from site-1" in run.problems["site-2"]


@pytest.mark.parametrize("claim", [np.array([1, 2]), None, 7])
def test_a_result_whose_sender_is_named_by_no_name_is_refused_and_not_left_out_of_the_round(claim: Any) -> None:
    run = Run(ours(), honest, claims={"site-2": claim})
    assert list(run.problems) == ["site-2"]
    assert run.saved == []


def test_a_global_model_that_a_site_can_not_evaluate_blames_no_site() -> None:
    run = Run(ours(), but("site-1", result(loss=math.nan)))
    assert list(run.problems) == ["server"]
    assert "as site-1 measured it" in run.problems["server"]
    assert run.saved == []


@pytest.mark.parametrize("metrics", [{}, {"loss": 1.0}, {"accuracy": "1"}, {"accuracy": math.nan}])
def test_a_final_evaluation_without_an_accuracy_is_refused(metrics: dict[str, Any]) -> None:
    answer = FLModelUtils.to_shareable(FLModel(params={"w": np.zeros(1)}, metrics=metrics))
    run = Run(ours(), but("site-2", answer, AppConstants.TASK_VALIDATION))
    assert run.failed
    assert not run.engine.said(module.COMPLETE_EVENT)


def test_nvflares_own_fedavg_goes_on_without_the_result_that_its_aggregator_refused() -> None:
    """What the override is for: with NVFlare's own class a refused result leaves the other site's model as everybody's, and no error."""
    stock = FedAvg(
        num_clients=2, num_rounds=1, persistor_id="persistor", allow_empty_global_weights=True,
        aggregator=ExactMean({name: (shape, DTYPE) for name, shape in SHAPES["light"].items()}),
    )  # fmt: skip
    spoiled = result({**weights(), "head.bias": np.full(10, math.nan, np.float32)})
    run = Run(stock, lambda task, site: spoiled if site == "site-2" else result())
    assert not run.failed
    assert len(run.saved) == 1


def test_a_problem_that_a_site_reports_replaces_what_was_guessed_and_others_only_follow() -> None:
    run = Run(ours(), but("site-2", make_reply(ReturnCode.EXECUTION_EXCEPTION)))
    report = {"state": "working", "task": "", "round": -1}
    run.controller._take_state("site-2", {**report, "error": "ShardError: none\x1b[2J"})  # type: ignore[attr-defined]
    run.controller._take_state("site-1", {**report, "error": "aborted"})  # type: ignore[attr-defined]
    assert run.problems == {"site-2": "ShardError: none"}


def test_a_job_that_nvflare_ends_by_itself_names_whose_result_had_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = ours()

    def monitor(self: Communicator) -> int:
        """What NVFlare's monitor does when it takes every site for dead (`wf_comm_server.py`)."""
        with self.engine.new_context() as fl_ctx:
            controller.system_panic("Aborting job due to deployment policy violation", fl_ctx)
        return 1

    monkeypatch.setattr(Communicator, "get_num_standing_tasks", monitor)
    run = Run(controller, but("site-2", None))
    assert list(run.problems) == ["site-2"]
    assert "its result has not come" in run.problems["site-2"]
    assert "policy violation" in run.problems["site-2"]
    assert run.saved == []


def test_a_job_that_a_person_aborts_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def aborted(self: Communicator) -> int:
        self.engine.aborted.trigger(True)
        return 1

    monkeypatch.setattr(Communicator, "get_num_standing_tasks", aborted)
    run = Run(ours(), but("site-2", None))
    assert run.problems == {}
    assert run.failed  # NVFlare calls it aborted; it is never completed


class Cell:
    """A job process's cell: who is called for which topic."""

    def __init__(self) -> None:
        self.decode_pass_through_topics: set[tuple[str, str]] = set()
        self.core_cell = self
        self.callbacks: dict[str, Callable[[Message], Message]] = {}

    def register_request_cb(self, channel: str, topic: str, cb: Callable[[Message], Message]) -> None:
        self.callbacks[topic] = cb

    def deliver(self, topic: str, origin: str, content: dict[str, Any]) -> None:
        message = new_cell_message({}, content)
        message.set_header(MessageHeaderKey.ORIGIN, origin)
        self.callbacks[topic](message)


def test_a_site_that_is_lost_ends_the_job_and_only_the_server_may_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)
    cell, asked = Cell(), threading.Event()
    monkeypatch.setattr(Engine, "get_cell", lambda self: cell)

    def standing(self: Communicator) -> int:
        asked.set()
        return 1

    monkeypatch.setattr(Communicator, "get_num_standing_tasks", standing)
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(Run(ours(), but("site-2", None))), daemon=True)
    thread.start()
    assert asked.wait(20)
    cell.deliver(job_messages.PROBLEM, "site-2.job-1", {"site": "site-1", "reason": "forged"})
    cell.deliver(job_messages.STATE, "site-2.job-1", {"state": "working", "task": "", "round": "x", "error": ""})
    cell.deliver(job_messages.PROBLEM, "server", {"site": "site-2", "reason": "its job process was killed"})
    thread.join(20)
    (run,) = runs
    assert run.problems == {"site-2": "its job process was killed"}
    assert run.saved == []
    assert (CellChannel.SERVER_COMMAND, ServerCommandNames.SUBMIT_UPDATE) in cell.decode_pass_through_topics
