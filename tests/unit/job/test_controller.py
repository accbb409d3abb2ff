"""Whom the controller asks, and what it does with what comes back."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_constant import ReturnCode, ServerCommandNames
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel
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
from multisite.job.participants import draw
from multisite.job.progress import COMPLETE_EVENT
from multisite.tracking.receiver import ABORTED
from tests.unit.controller_run import Answers, Communicator, Engine, Run, measured, result, weights


def ours() -> EvaluatedFedAvg:
    return EvaluatedFedAvg(num_clients=2, num_rounds=1, network="light", most_steps=100)


def honest(task: str, site: str, round_: int) -> Shareable:
    return measured(accuracy=0.6) if task == AppConstants.TASK_VALIDATION else result()


def but(site: str, answer: Shareable | None, task: str = AppConstants.TASK_TRAIN) -> Answers:
    return lambda name, who, round_: answer if (name, who) == (task, site) else honest(name, who, round_)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "notify_sites", lambda *_: None)


def test_two_honest_sites_complete_a_job_and_its_final_evaluation() -> None:
    run = Run(ours(), honest)
    assert (run.problems, run.failed) == ({}, False)
    assert len(run.saved) == 1
    assert run.engine.said(COMPLETE_EVENT)


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
    assert not run.engine.said(COMPLETE_EVENT)


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
    assert not run.engine.said(COMPLETE_EVENT)


def test_nvflares_own_fedavg_goes_on_without_the_result_that_its_aggregator_refused() -> None:
    """What the override is for: with NVFlare's own class a refused result leaves the other site's model as everybody's, and no error."""
    stock = FedAvg(
        num_clients=2, num_rounds=1, persistor_id="persistor", allow_empty_global_weights=True,
        aggregator=ExactMean({name: (shape, DTYPE) for name, shape in SHAPES["light"].items()}),
    )  # fmt: skip
    spoiled = result({**weights(), "head.bias": np.full(10, math.nan, np.float32)})
    run = Run(stock, lambda task, site, round_: spoiled if site == "site-2" else result())
    assert not run.failed
    assert len(run.saved) == 1


THREE = ("site-3", "site-1", "site-2")


def asked(run: Run) -> list[tuple[str, int]]:
    return [(task, round_) for task, round_, _ in run.asked]


def of_two(**more: Any) -> EvaluatedFedAvg:
    return EvaluatedFedAvg(num_clients=2, num_rounds=3, network="light", **more)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_of_more_sites_the_seed_draws_those_that_train_in_every_round_and_evaluate(seed: int) -> None:
    run = Run(of_two(seed=seed), honest, engine=Engine(THREE))
    assert asked(run) == [("train", 0), ("train", 1), ("train", 2), ("validate", 3)]
    assert [sites for *_, sites in run.asked] == [draw(THREE, 2, seed)] * 4
    assert not run.failed


def test_sites_that_the_job_names_take_part_and_no_others() -> None:
    run = Run(of_two(sites=["site-2", "site-3"]), honest, engine=Engine(THREE))
    assert {tuple(sites) for *_, sites in run.asked} == {("site-2", "site-3")}
    assert run.engine.said(COMPLETE_EVENT)


def test_a_site_that_the_job_names_and_that_is_not_there_ends_it_under_its_name() -> None:
    run = Run(of_two(sites=["site-1", "site-4"]), honest, engine=Engine(THREE))
    assert list(run.problems) == ["site-4"]
    assert (run.failed, run.asked) == (True, [])


def test_a_job_with_fewer_sites_than_it_wants_does_not_go_on_with_those() -> None:
    run = Run(of_two(), honest, engine=Engine(("site-1",)))
    assert run.problems == {"server": "the job wants 2 sites and has site-1"}
    assert (run.failed, run.asked) == (True, [])


def test_what_fails_on_a_site_that_does_not_take_part_ends_nothing() -> None:
    run = Run(of_two(sites=["site-1", "site-2"]), honest, engine=Engine(THREE))
    report = {"state": "idle", "task": "", "round": -1, "error": "ShardError: none"}
    run.controller._take_state("site-3", report)  # type: ignore[attr-defined]
    assert run.problems == {}
    run.controller._take_state("site-2", report)  # type: ignore[attr-defined]
    assert list(run.problems) == ["site-2"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sites", "site-1"),
        ("sites", {"site-1": 1, "site-2": 2}),
        ("sites", ["site-1", 2]),
        ("sites", ["site-1", ["site-2"]]),
        ("sites", ["site-1", ""]),
        ("sites", ["site-1", "x" * 129]),
        ("sites", ["site-1", "site-2\x1b[2J"]),
        ("sites", ["site-1", "site-1"]),
        ("sites", ["site-1"]),
        ("sites", ["site-1", "site-2", "site-3"]),
        ("seed", -1),
        ("seed", 2**31),
        ("seed", "0"),
        ("seed", True),
        ("num_clients", 0),
        ("num_clients", "2"),
        ("num_clients", True),
        ("num_rounds", 0),
        ("num_rounds", "3"),
        ("most_steps", 0),
        ("most_steps", 10**12),
        ("network", "resnet"),
        ("network", ["light"]),
    ],
)
def test_an_argument_that_is_none_is_refused_by_name(name: str, value: object) -> None:
    arguments: dict[str, Any] = {"num_clients": 2, "num_rounds": 1, name: value}
    with pytest.raises(ValueError, match=f"^{name} must be") as refused:
        EvaluatedFedAvg(**arguments)
    assert str(refused.value).isprintable()


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
    assert run.controller.fl_ctx.get_prop(ABORTED)  # type: ignore[attr-defined]


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
