"""The options of the CIFAR-10 job: one list, the same by flag (`--rounds 20`) and by make variable (`ROUNDS=20`).

Standard library only: the host's console reads it too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

NETWORKS = ("light", "compact", "moderate", "upstream")
UNKNOWN = "unknown"
DATASETS = ("auto", "cifar10", "synthetic", UNKNOWN)
RECEIVERS = ("multisite", "nvflare")
# What `PRESET=...` stands for; a variable of its own goes before. `published` is NVFlare's published setting, for 8 sites with GPUs.
PRESETS: dict[str, dict[str, str]] = {
    "default": {},
    "accurate": {"ROUNDS": "36", "NETWORK": "compact"},
    "published": {"ROUNDS": "50", "LOCAL_EPOCHS": "4", "BATCH_SIZE": "64", "LR": "0.05", "ALPHA": "1.0", "NETWORK": "moderate"},
}
MAX_SITES = 32
MOST_SEED = 2**31 - 1
MOST_STEPS = 1_000 * 10_000_000  # of a site in a round: what the bounds below allow at most


class OptionError(ValueError):
    """A job option is out of range. The message names the option, its value and what is allowed."""


@dataclass(frozen=True)
class JobOptions:
    """Options of one federated job.

    Attributes:
        rounds: federated rounds.
        local_epochs: passes over its shard that a site makes a round.
        batch_size: examples a step.
        lr: peak learning rate of SGD.
        alpha: Dirichlet concentration of the partition; None is IID.
        network: `light`; `compact`, of as many parameters and 2.5 times the work; `moderate`, 14 MB; or `upstream`, the network of
            NVFlare's example.
        sites: how many sites take part, the same ones in every round; of more, the seed draws (`participants.py`).
        seed: of the partition, of the initial weights, of the batches and of the draw of sites.
        dataset: what the shards hold, for the run's config: `cifar10`, `synthetic`, or `unknown`. `auto`: nobody has looked; for the
            simulator CIFAR-10, or synthetic data where that can't be had, and in a job's configuration `unknown`.
        streamed_to_server: metrics go through the server to W&B.
        streamed_to_clients: each site sends its own metrics to W&B.
        wait_seconds: how long the job's end waits until W&B has every metric; the rest is delivered later.
        log_model: keep the final global model as a W&B artifact too.
        max_examples: the most examples that a site may say it has: what bounds the weight of its result.
        receiver: `multisite`, or `nvflare` for NVFlare's own W&B receiver, for comparison.
    """

    rounds: int = 16
    local_epochs: int = 1
    batch_size: int = 128
    lr: float = 0.1
    alpha: float | None = None
    network: str = "light"
    sites: int = 2
    seed: int = 0
    dataset: str = "auto"
    streamed_to_server: bool = True
    streamed_to_clients: bool = False
    wait_seconds: float = 30.0
    log_model: bool = False
    max_examples: int = 50_000
    receiver: str = "multisite"

    def __post_init__(self) -> None:
        _whole("rounds", self.rounds, 1, 10_000)
        _whole("local_epochs", self.local_epochs, 1, 1_000)
        _whole("batch_size", self.batch_size, 1, 10_000)
        _whole("sites", self.sites, 1, MAX_SITES)
        _whole("seed", self.seed, 0, MOST_SEED)
        _whole("max_examples", self.max_examples, 1, 10_000_000)
        _positive("lr", self.lr)
        if self.streamed_to_server and self.streamed_to_clients:
            raise OptionError(
                "a metric goes one way, or it would arrive twice: with --streamed_to_clients, give --no-streamed_to_server"
            )
        if not 0 <= self.wait_seconds <= 3600:
            raise OptionError(f"wait_seconds must be a number from 0 to 3600, not {self.wait_seconds}")
        if self.streamed_to_clients and self.log_model:
            raise OptionError("log_model needs the key on the server: it goes with streaming through the server")
        if self.alpha is not None:
            _positive("alpha", self.alpha)
        _one_of("network", self.network, NETWORKS)
        _one_of("dataset", self.dataset, DATASETS)
        _one_of("receiver", self.receiver, RECEIVERS)
        if not self.streamed_to_server and not self.streamed_to_clients:
            raise OptionError("metrics would go nowhere: with --no-streamed_to_server, give --streamed_to_clients as well")

    @property
    def most_steps(self) -> int:
        """The most steps that a site can make in a round: the bound of its result's weight."""
        return self.local_epochs * -(-self.max_examples // self.batch_size)

    def as_arguments(self) -> list[str]:
        """The command line that gives these options."""
        arguments = []
        for name, value in asdict(self).items():
            if isinstance(value, bool):
                arguments.append(f"--{name}" if value else f"--no-{name}")
            elif value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OptionError(f"{name} must be a whole number from {low} to {high}, not {value}")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name} must be a number above 0, not {value}")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


HELP = {
    "rounds": "federated rounds",
    "local_epochs": "passes over its shard that a site makes a round",
    "batch_size": "examples a step",
    "lr": "peak learning rate",
    "alpha": "Dirichlet concentration of the partition (default: IID)",
    "network": "light, compact, moderate (14 MB, for GPUs), or upstream (NVFlare's example's)",
    "sites": "how many sites take part, the same in every round (of more, the seed draws)",
    "seed": "of the partition, the initial weights, the batches and the draw of sites",
    "dataset": "what the shards hold, as the run's config says: auto (unknown until the simulator looks), cifar10, synthetic or unknown",
    "streamed_to_server": "metrics go through the server to W&B",
    "streamed_to_clients": "each site sends its own metrics to W&B",
    "wait_seconds": "how long the job's end waits until W&B has every metric",
    "log_model": "keep the final global model as a W&B artifact too",
    "max_examples": "the most examples that a site may say it has, which bounds its weight",
    "receiver": "multisite, or nvflare for NVFlare's own, for comparison (its key: WANDB_API_KEY)",
}
ALIASES = {"rounds": ["--num_rounds"], "sites": ["--n_clients"]}  # the upstream example's names
NUMBERS = {
    **dict.fromkeys(("rounds", "local_epochs", "batch_size", "sites", "seed", "max_examples"), int),
    **dict.fromkeys(("lr", "alpha", "wait_seconds"), float),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every job option to `parser`, under its field's name."""
    for field in fields(JobOptions):
        flags = [f"--{field.name}", *ALIASES.get(field.name, [])]
        if isinstance(field.default, bool):
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction, default=field.default, help=HELP[field.name])
        else:
            parser.add_argument(
                *flags, type=NUMBERS.get(field.name, str), default=field.default, help=HELP[field.name], metavar="X"
            )


def from_arguments(parsed: argparse.Namespace) -> JobOptions:
    """Job options from what `add_arguments` parsed.

    Raises:
        OptionError: an option is out of range.
    """
    return JobOptions(**{field.name: getattr(parsed, field.name) for field in fields(JobOptions)})


def from_variables(variables: dict[str, str]) -> JobOptions:
    """Job options from make variables: `{"ROUNDS": "20"}`. Empty ones keep the default; unknown names are ignored.

    Raises:
        OptionError: a value is no number, or out of range.
    """
    values: dict[str, object] = {}
    for field in fields(JobOptions):
        text = variables.get(field.name.upper(), "").strip()
        if not text:
            continue
        if field.name in NUMBERS:
            try:
                values[field.name] = NUMBERS[field.name](text)
            except ValueError:
                raise OptionError(f"{field.name.upper()}={text} is not a number ({HELP[field.name]})") from None
        elif isinstance(field.default, bool):
            if text not in ("yes", "no"):
                raise OptionError(f"{field.name.upper()} must be yes or no, not {text!r}")
            values[field.name] = text == "yes"
        else:
            values[field.name] = text
    return JobOptions(**values)  # type: ignore[arg-type]


def with_preset(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, and those of `PRESET` that are not set themselves.

    Raises:
        OptionError: no such preset.
    """
    name = variables.get("PRESET", "").strip() or "default"
    _one_of("PRESET", name, list(PRESETS))
    given = {key: value for key, value in variables.items() if value.strip()}
    return {**PRESETS[name], **given}
