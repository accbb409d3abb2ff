"""The local work that every arm does, and the marks that its times are taken from. No federation in here.

Also the training script of the stock arms (NVFlare copies it into their job): `python work.py --site-data ...` is its Client API loop.
"""

from __future__ import annotations

import argparse
import os
import time
import zlib
from pathlib import Path
from typing import Any

import torch

from multisite.cifar10.model import build
from multisite.cifar10.shards import load_shard
from multisite.cifar10.training import Recipe, evaluate, in_memory, train_round
from tests.bench.federation import mark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the work is."""
    parser.add_argument("--shards", required=True, help="folder of the shards; {site} in it stands for the site's name")
    parser.add_argument("--partition", required=True)
    parser.add_argument("--network", required=True)
    for name in ("rounds", "batch_size", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)


class Work:
    """One site's evaluation and training, as `multisite.job.client` does them."""

    def __init__(self, options: argparse.Namespace, site: str) -> None:
        torch.set_num_threads(int(os.environ.get("SITE_THREADS") or 1))
        self.site = site
        self.seed = options.seed + zlib.crc32(site.encode())
        self.device = torch.device("cpu")
        shard = load_shard(Path(options.shards.format(site=site)), options.partition)
        self.images, self.labels = in_memory(torch.from_numpy(shard.train_images)), torch.from_numpy(shard.train_labels)
        self.test = in_memory(torch.from_numpy(shard.test_images)), torch.from_numpy(shard.test_labels)
        self.recipe = Recipe(rounds=options.rounds, local_epochs=1, batch=options.batch_size, lr=options.lr)
        self.model = build(options.network, options.seed)

    def evaluate(self) -> float:
        """Accuracy of the weights as they are."""
        return evaluate(self.model, *self.test, device=self.device).accuracy

    def round(self, number: int, on_step: Any = None) -> tuple[int, float]:
        """Evaluates, trains and marks; returns steps and the accuracy before."""
        began = time.time()
        accuracy = self.evaluate()
        trained = train_round(self.model, self.images, self.labels, self.recipe, number, self.seed, self.device, on_step)
        mark(site=self.site, round=number, began=began, step=time.time() - trained.seconds, ended=time.time())
        return trained.steps, accuracy


def main() -> None:
    """The stock arms' training script: NVFlare's Client API as its examples write it."""
    import nvflare.client as flare
    from nvflare.client.tracking import WandBWriter

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args()
    flare.init()
    work, writer = Work(options, flare.get_site_name()), WandBWriter()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        work.model.load_state_dict({name: torch.as_tensor(value) for name, value in model.params.items()})
        number = model.current_round

        def on_step(step: int, loss: float, number: int = number) -> None:
            writer.log({"train_loss": loss}, step=number * 1000 + step)

        steps, accuracy = work.round(number, on_step)
        weights = {name: value.detach().cpu() for name, value in work.model.state_dict().items()}
        flare.send(flare.FLModel(params=weights, metrics={"accuracy": accuracy}, meta={"NUM_STEPS_CURRENT_ROUND": steps}))


if __name__ == "__main__":
    main()
