"""Arm A: FedAvg in plain PyTorch, sites as processes, no framework.  python -m tests.bench.federation.plain --sites N --out FILE ...

Weights travel as NumPy arrays through pipes; the mean is weighted by steps and added in float64, as this deployment's server does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.federation import mark
from tests.bench.federation.work import add_arguments

Weights = dict[str, np.ndarray[Any, Any]]


def site(pipe: Connection, options: argparse.Namespace, name: str) -> None:
    """A site's process: takes weights, works, sends weights; None means that there is one evaluation left."""
    import torch

    from tests.bench.federation.work import Work

    work = Work(options, name)
    for number in range(options.rounds + 1):
        weights = pipe.recv()
        if weights:
            work.model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        if number == options.rounds:
            pipe.send((0, work.evaluate()))
            mark(site=name, evaluated=time.time())
            return
        steps, _ = work.round(number)
        pipe.send((steps, {key: value.numpy() for key, value in work.model.state_dict().items()}))


def mean(results: list[tuple[int, Weights]]) -> Weights:
    """The weighted mean of what the sites sent."""
    total = sum(steps for steps, _ in results)
    return {
        key: (sum(weights[key].astype(np.float64) * steps for steps, weights in results) / total).astype(np.float32)
        for key in results[0][1]
    }


def main() -> None:
    """The server's part."""
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(1, options.sites + 1):
        ours, theirs = context.Pipe()
        context.Process(target=site, args=(theirs, options, f"site-{number}"), daemon=True).start()
        pipes.append(ours)
    weights: Weights = {}
    for number in range(options.rounds + 1):
        for pipe in pipes:
            pipe.send(weights)
        results = [pipe.recv() for pipe in pipes]
        if number < options.rounds:
            weights = mean(results)
    save_file(weights, options.out)
    mark(done=time.time())


if __name__ == "__main__":
    main()
