"""The training script that NVFlare runs on every site (Client API).

A round: evaluate the global model on the test set, train it on this site's shard, send it back. Metrics go to whoever listens
through `WandBWriter`: the receiver on the server, or the one in this site.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import zlib
from pathlib import Path

import nvflare.client as flare
import torch
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.client.tracking import WandBWriter

from multisite.cifar10.model import build
from multisite.cifar10.shards import load_shard
from multisite.cifar10.training import Recipe, evaluate, in_memory, pick_device, train_round
from multisite.job.progress import SITE_ERROR

DATA = "MULTISITE_DATA"  # the site's data folder; `{site}` in it stands for the site's name (simulator)
logger = logging.getLogger("multisite.site")


def parse() -> argparse.Namespace:
    """The job's options, as `job.recipe` wrote them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--partition", required=True)
    parser.add_argument("--network", required=True)
    for name in ("rounds", "local_epochs", "batch_size", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    return parser.parse_args()


class Site:
    """One site's state through a job: its shard and its network."""

    def __init__(self, options: argparse.Namespace, name: str) -> None:
        self.name = name
        self.seed = options.seed + zlib.crc32(name.encode())  # sites draw different batches
        self.device = pick_device()
        shard = load_shard(Path(os.environ.get(DATA, "/data").format(site=name)), options.partition)
        self.dataset = shard.manifest["dataset"]
        self.images, self.labels = in_memory(torch.from_numpy(shard.train_images)), torch.from_numpy(shard.train_labels)
        self.test = in_memory(torch.from_numpy(shard.test_images)), torch.from_numpy(shard.test_labels)
        self.model = build(options.network, options.seed).to(self.device)
        self.recipe = Recipe(rounds=options.rounds, local_epochs=options.local_epochs, batch=options.batch_size, lr=options.lr)
        self.writer = WandBWriter()

    def take(self, model: flare.FLModel) -> None:
        """Loads the global model; the first round has none, and keeps the seeded weights."""
        if model.params:
            self.model.load_state_dict({name: torch.from_numpy(value) for name, value in model.params.items()})

    def evaluate(self, round: int) -> dict[str, float]:
        """Accuracy and loss of the global model after `round` rounds, on the test set."""
        result = evaluate(self.model, *self.test, device=self.device)
        self.writer.log({"test/accuracy": result.accuracy, "test/loss": result.loss, "round": round}, step=None)
        return {"accuracy": result.accuracy, "loss": result.loss}

    def train(self, round: int) -> flare.FLModel:
        """One round of local training from the current weights."""
        started = time.perf_counter()
        before = self.evaluate(round)
        evaluated = time.perf_counter() - started
        steps_a_round = self.recipe.local_epochs * -(-len(self.labels) // self.recipe.batch)

        def on_step(step: int, loss: float) -> None:
            self.writer.log({"train/loss": loss}, step=round * steps_a_round + step)

        result = train_round(self.model, self.images, self.labels, self.recipe, round, self.seed, self.device, on_step)
        trained_at = time.time()
        trained = {
            "train_loss": result.loss,
            "train_accuracy": result.accuracy,
            "train_seconds": result.seconds,
            "examples": float(result.examples),
            "evaluate_seconds": evaluated,
        }
        self.writer.log({f"train_round/{name}": value for name, value in trained.items()} | {"round": round + 1}, step=None)
        logger.info(
            "round %d/%d: trained on %d examples in %.1f s on %s, loss %.3f; global model's accuracy %.4f",
            round + 1,
            self.recipe.rounds,
            result.examples,
            result.seconds,
            self.device,
            result.loss,
            before["accuracy"],
        )
        return flare.FLModel(
            params={name: value.detach().cpu().numpy() for name, value in self.model.state_dict().items()},
            metrics={**before, **trained},
            meta={
                "NUM_STEPS_CURRENT_ROUND": result.steps,
                "dataset": self.dataset,
                "trained_at": trained_at,
            },
        )


def main() -> None:
    """The Client API loop."""
    options = parse()
    flare.init()
    torch.set_num_threads(int(os.environ.get("SITE_THREADS") or 1))
    site = Site(options, flare.get_site_name())
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        site.take(model)
        if flare.is_train():
            flare.send(site.train(model.current_round))
        elif flare.is_evaluate():
            metrics = site.evaluate(model.current_round)
            logger.info("final global model's accuracy %.4f", metrics["accuracy"])
            flare.send(flare.FLModel(metrics=metrics, meta={"dataset": site.dataset}))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        # The server's result code says only that this site failed; the reason goes beside it.
        flare.log(SITE_ERROR, f"{type(error).__name__}: {error}", AnalyticsDataType.TEXT)
        raise
