"""Arms B and C: the same work with NVFlare's own PyTorch recipe, receiver and defaults, for its simulator or for its containers.

python -m tests.bench.federation.recipe --simulate|--into DIR --sites N ...
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from nvflare.recipe.utils import add_experiment_tracking

from multisite.cifar10.model import build
from tests.bench.federation import mark
from tests.bench.federation.work import add_arguments


def main() -> None:
    """Builds the job; simulates or exports it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    names = ("shards", "partition", "network", "rounds", "batch_size", "seed", "lr")
    recipe = FedAvgRecipe(
        name="stock",
        model=build(options.network, options.seed),
        min_clients=options.sites,
        num_rounds=options.rounds,
        train_script=str(Path(__file__).with_name("work.py")),
        train_args=" ".join(f"--{name} {getattr(options, name)}" for name in names),
    )
    wandb_args = {"project": "bench", "name": "stock", "job_type": "train", "group": "stock"}
    mode = "offline" if options.simulate else "online"
    add_experiment_tracking(recipe, "wandb", {"mode": mode, "wandb_args": wandb_args})
    if options.into:
        recipe.export(str(options.into))
        return
    sites = [f"site-{number}" for number in range(1, options.sites + 1)]
    recipe.execute(SimEnv(clients=sites, workspace_root="/tmp/simulation")).get_result()
    mark(done=time.time())


if __name__ == "__main__":
    main()
