"""A job's controller run to its end on NVFlare's own events, with its communicator replaced by one that has every answer at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, ReservedKey
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg

from multisite.cifar10.manifest import DTYPE, SHAPES
from multisite.job.progress import PROBLEM_EVENT

SITES = ("site-1", "site-2")
Answers = Callable[[str, str, int], Shareable | None]  # task, site, round -> result; None: it never comes


def weights(value: float = 0.5) -> dict[str, Any]:
    """Arrays of the network `light`."""
    return {name: np.full(shape, value, DTYPE) for name, shape in SHAPES["light"].items()}


def result(params: Any = None, steps: float = 10, **metrics: float) -> Shareable:
    """What a site sends after a round."""
    model = FLModel(
        params=weights() if params is None else params,
        metrics={"accuracy": 0.5, **metrics},
        meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: steps},
    )
    return FLModelUtils.to_shareable(model)


def measured(**metrics: float) -> Shareable:
    """What a site sends when it has measured the final global model."""
    return FLModelUtils.to_shareable(FLModel(metrics=metrics))


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
    """The server's engine in a job's process."""

    def __init__(
        self, sites: Sequence[str] = SITES, components: dict[str, FLComponent] | None = None, folder: Path = Path("/nowhere")
    ) -> None:
        self.sites, self.folder = sites, folder
        self.persistor = Persistor()
        self.components: dict[str, FLComponent] = {"persistor": self.persistor, **(components or {})}
        self.events: list[tuple[str, Any]] = []
        self.controller: FedAvg | None = None
        self.aborted = Signal()
        self.contexts = FLContextManager(
            engine=self, identity_name="server", job_id="job-1", public_stickers={}, private_stickers={}
        )

    def new_context(self) -> FLContext:
        return self.contexts.new_context()

    def get_clients(self) -> list[Client]:
        return [Client(name, name) for name in self.sites]

    def get_component(self, name: str) -> Any:
        return self.components.get(name)

    def get_cell(self) -> None:
        return None

    def get_workspace(self) -> Any:
        return SimpleNamespace(get_run_dir=lambda job_id: str(self.folder))

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append((event_type, fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
        for handler in [*([self.controller] if self.controller else []), *self.components.values()]:
            handler.handle_event(event_type, fl_ctx)
        if event_type == EventType.FATAL_SYSTEM_ERROR:  # as NVFlare's server runner does
            self.aborted.trigger(True)

    def send_aux_request(self, **_: Any) -> None:
        """A notice to the sites."""

    def said(self, event_type: str) -> list[Any]:
        """The data of every event of that type."""
        return [data for name, data in self.events if name == event_type]


class Communicator(WFCommServer):
    """Answers every task at once, with what the test has for it."""

    def __init__(self, answers: Answers, claims: dict[str, str]) -> None:
        super().__init__()
        self.answers, self.claims = answers, claims
        self.asked: list[tuple[str, int, list[str]]] = []
        self.engine: Any = None

    def broadcast(self, task: Task, fl_ctx: FLContext, targets: Any = None, *_: Any, **__: Any) -> None:
        round_ = int(task.data.get_header(AppConstants.CURRENT_ROUND))
        self.asked.append((task.name, round_, list(targets)))
        for site in targets:
            answer = self.answers(task.name, site, round_)
            if answer is None:
                continue  # NVFlare gives the site up
            answer.set_cookie_jar(task.data.get_cookie_jar())
            context = self.engine.new_context()
            peer = FLContext()
            peer.set_prop(ReservedKey.IDENTITY_NAME, self.claims.get(site, site), private=False, sticky=True)
            peer.set_prop(FLContextKey.SHAREABLE, answer, private=True, sticky=False)
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
    """A job that has ended."""

    def __init__(
        self, controller: FedAvg, answers: Answers, claims: dict[str, str] | None = None, engine: Engine | None = None
    ) -> None:
        self.engine, self.controller = engine or Engine(), controller
        communicator = Communicator(answers, claims or {})
        communicator.engine = self.engine
        self.asked = communicator.asked
        self.engine.controller = controller
        controller.set_communicator(communicator)
        with self.engine.new_context() as fl_ctx:
            self.engine.fire_event(EventType.START_RUN, fl_ctx)
            controller.initialize(fl_ctx)
            controller.control_flow(self.engine.aborted, fl_ctx)
            self.engine.fire_event(EventType.END_RUN, fl_ctx)

    @property
    def problems(self) -> dict[str, str]:
        """Site -> why the job ended."""
        return {site: reason for said in self.engine.said(PROBLEM_EVENT) for site, reason in said.items()}

    @property
    def failed(self) -> bool:
        """Whether NVFlare calls the job failed."""
        return bool(self.engine.said(EventType.FATAL_SYSTEM_ERROR))

    @property
    def saved(self) -> list[dict[str, Any]]:
        """The global models that were saved."""
        return self.engine.persistor.saved
