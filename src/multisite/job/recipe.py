"""The CIFAR-10 FedAvg job, built with NVFlare's Recipe API. It carries configuration only: the code is in the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.recipe.fedavg import FedAvgRecipe

from multisite.cifar10.facts import described
from multisite.cifar10.partition import Partition
from multisite.job.arguments import checked_sites
from multisite.job.controller import EvaluatedFedAvg
from multisite.job.executor import CLIENT_SCRIPT, TrainingExecutor
from multisite.job.job_state import JobState
from multisite.job.options import UNKNOWN, JobOptions
from multisite.job.persistor import GLOBAL_MODEL, SafetensorsPersistor
from multisite.job.progress import RoundReporter
from multisite.job.task_notice import FETCH_SECONDS, TaskNotice
from multisite.tracking.receiver import WandbReceiver
from multisite.tracking.recorder import MetricsRecorder

NAME = "cifar10_fedavg"
PROJECT = "multisite-cifar10"
AXES = {"test/*": "round", "train_round/*": "round"}

# Weights travel within their message. NVFlare would have them fetched in pieces, 2 MB a request, for models that do not fit one: three
# more messages a site and round, twice the server's CPU at 14 MB.
WHOLE_MESSAGES = {"np_download_chunk_size": 0}


class Cifar10Recipe(FedAvgRecipe):
    """NVFlare's FedAvg recipe, with the parts that live in the images.

    The base recipe, not the PyTorch one: that imports torch where a job is built, and the admin has none. Sites exchange NumPy
    arrays with the server.
    """

    def __init__(self, options: JobOptions, sites: Sequence[str] = ()) -> None:
        """
        Args:
            options: the job's options.
            sites: the names of its sites, and the job runs nowhere else. Empty: it is deployed to every site, and the controller
                draws those that take part.

        Raises:
            ValueError: they are not as many as the options say.
        """
        self.options, self.sites = options, checked_sites(sites, options.sites)
        super().__init__(
            name=NAME,
            model_persistor=SafetensorsPersistor(described(options.network)),
            min_clients=options.sites,
            num_rounds=options.rounds,
            train_script=str(CLIENT_SCRIPT),
            framework=FrameworkType.NUMPY,
            server_expected_format=ExchangeFormat.NUMPY,
            key_metric="accuracy",
        )
        self._job.job.set_app_packages(["multisite"])  # in every image: not to be copied into the job
        self._job.to_server(RoundReporter(rounds=options.rounds), id="round_reporter")
        self.add_server_config({"server": {"task_request_interval": FETCH_SECONDS}, **WHOLE_MESSAGES})
        self.add_client_config({"default_task_fetch_interval": FETCH_SECONDS, **WHOLE_MESSAGES})
        if options.receiver == "nvflare":
            if options.streamed_to_server:
                self._job.to_server(_stock_receiver(options), id="wandb_receiver")
            return
        wandb_args = _wandb_args(options) if options.streamed_to_server else None
        receiver = WandbReceiver(wandb_args, AXES, options.wait_seconds, GLOBAL_MODEL if options.log_model else "")
        self._job.to_server(receiver, id="wandb_receiver")

    def _prepare_client_apps(self) -> None:
        """The client's part: the executor knows the script by its place in the image."""
        options = self.options
        executor = TrainingExecutor(
            partition=Partition(sites=options.sites, alpha=options.alpha, seed=options.seed).name,
            network=options.network,
            rounds=options.rounds,
            local_epochs=options.local_epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            seed=options.seed,
        )
        self._to_sites(executor, tasks=["*"])
        self._to_sites(TaskNotice(), id="task_notice")
        self._to_sites(JobState(), id="job_state")
        if options.receiver == "nvflare":
            if options.streamed_to_clients:
                self._to_sites(_stock_receiver(options, [ANALYTIC_EVENT_TYPE]), id="wandb_receiver")
            return
        wandb_args = _wandb_args(options) if options.streamed_to_clients else None
        self._to_sites(MetricsRecorder(options.streamed_to_server, wandb_args, AXES), id="metrics_recorder")

    def _to_sites(self, component: FLComponent, **more: Any) -> None:
        if not self.sites:
            self._job.to_clients(component, **more)
        for site in self.sites:
            self._job.to(component, site, **more)

    def _create_controller(self, persistor_id: str, model_params: object, model_aggregator: object) -> FedAvg:
        return EvaluatedFedAvg(
            num_clients=self.min_clients,
            num_rounds=self.num_rounds,
            network=self.options.network,
            most_steps=self.options.most_steps,
            persistor_id=persistor_id,
            sites=self.sites,
            seed=self.options.seed,
        )


def _stock_receiver(options: JobOptions, events: list[str] | None = None) -> FLComponent:
    """NVFlare's own receiver, as its documentation has it."""
    from nvflare.app_opt.tracking.wandb.wandb_receiver import WandBReceiver  # imports wandb, which the admin can do without

    return WandBReceiver(wandb_args=_wandb_args(options), mode="online", events=events)


def _wandb_args(options: JobOptions) -> dict[str, object]:
    dataset = UNKNOWN if options.dataset == "auto" else options.dataset
    config = {
        "algorithm": "FedAvg",
        "dataset": dataset.upper() if dataset == "synthetic" else dataset,
        "network": options.network,
        "sites": options.sites,
        "rounds": options.rounds,
        "local_epochs": options.local_epochs,
        "batch_size": options.batch_size,
        "lr": options.lr,
        "partition": "iid" if options.alpha is None else f"dirichlet alpha={options.alpha}",
        "seed": options.seed,
    }
    return {
        "project": PROJECT,
        "name": NAME,
        "job_type": "train-validate",
        "notes": "FedAvg on CIFAR-10 over provisioned NVFlare sites",
        "tags": ["fedavg", dataset],
        "config": config,
    }
