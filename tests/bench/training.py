"""Local training beside torchvision's transforms in a DataLoader, on one thread, arms in turn:  python -m tests.bench.training [--quick]

The same network, augmentation (shifts of 3 pixels with the edge reflected, flips), optimizer, batches and loss. Images are random:
the speed of neither arm depends on what they show.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToPILImage, ToTensor

from multisite.cifar10.model import NETWORKS, build
from multisite.cifar10.training import MEAN, SHIFT, STD, Recipe, in_memory, train_round

CPU = torch.device("cpu")
RECIPE = Recipe(rounds=8, local_epochs=1, batch=128, lr=0.05)


class Images(Dataset[tuple[Any, int]]):
    """As `torchvision.datasets.CIFAR10` hands them out."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = [ToPILImage()(image) for image in images], labels.tolist()
        self.transform = Compose(
            [
                RandomCrop(32, padding=SHIFT, padding_mode="reflect"),
                RandomHorizontalFlip(),
                ToTensor(),
                Normalize([value / 255 for value in MEAN], [value / 255 for value in STD]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


def usual(network: str, data: Images) -> float:
    """An epoch as PyTorch's tutorials write it; images a second."""
    model = build(network, 0).train()
    optimizer = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum, weight_decay=RECIPE.weight_decay, nesterov=True)
    started = time.perf_counter()
    for images, labels in DataLoader(data, RECIPE.batch, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return len(data) / (time.perf_counter() - started)


def ours(network: str, images: Tensor, labels: Tensor) -> float:
    """A round of a site; images a second."""
    return len(labels) / train_round(build(network, 0), images, labels, RECIPE, 0, 0, CPU).seconds


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "images/s on a core: median (smallest-largest) of runs in turn\n\n| network | DataLoader | here | ratio |\n|---|---|---|---|"
    )
    for network in NETWORKS:
        count, repeats = (512, 3) if network == "moderate" else (5120, 3 if options.quick else 7)
        images, labels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (count,))
        data = Images(images, labels)
        usual(network, data)  # the first run pays for imports
        runs = [(usual(network, data), ours(network, in_memory(images), labels)) for _ in range(repeats)]
        there, here = ([run[arm] for run in runs] for arm in (0, 1))
        ratios = [after / before for before, after in runs]
        cells = [f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})" for values in (there, here)]
        print(
            f"| {network} | {' | '.join(cells)} | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
