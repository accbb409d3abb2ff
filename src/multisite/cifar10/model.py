"""The networks: a light and a compact one made for CPUs, a moderate one made for GPUs, and the one of NVFlare's example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Light(nn.Module):
    """Three 3x3 convolutions with GroupNorm over patches of 2x2 pixels, 97,354 parameters, 40% of Compact's time.

    A patch's pixels become its channels (space to depth): at full resolution there would be few channels, which leave a CPU's vectors
    half empty, and the largest activations of all.
    """

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.layers = nn.Sequential(nn.PixelUnshuffle(2), *_block(12, 32, pool), *_block(32, 64, pool), *_block(64, 128))
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, 10]."""
        return self.head(self.layers(images).amax((2, 3)))  # type: ignore[no-any-return]


class Compact(nn.Module):
    """Four 3x3 convolutions with GroupNorm (no batch statistics to average across sites), about 100,000 parameters.

    A block is pooled before it is normalized: a quarter of the work for the normalization, which a CPU does slowly.
    """

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.layers = nn.Sequential(*_block(3, 24, pool), *_block(24, 48, pool), *_block(48, 64), *_block(64, 96, pool))
        self.head = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, 10]."""
        return self.head(self.layers(images).amax((2, 3)))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int, *pool: nn.Module) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), *pool, nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)


class Moderate(nn.Module):
    """Six convolutions and three linear layers, 3.5 million parameters, 14 MB: the size of the published setting's ModerateCNN.

    Wang et al., "Federated Learning with Matched Averaging" (https://arxiv.org/abs/2002.06440), with GroupNorm and no dropout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 32), *_block(32, 64, nn.MaxPool2d(2)),
            *_block(64, 128), *_block(128, 128, nn.MaxPool2d(2)),
            *_block(128, 256), *_block(256, 256, nn.MaxPool2d(2)),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, 10]."""
        return self.classifier(self.features(images))  # type: ignore[no-any-return]


class Upstream(nn.Module):
    """The network of NVFlare's CIFAR-10 examples (LeNet-5's shape, 62,006 parameters).

    It is pooled before its ReLU, not after: the same function of the same weights, and a quarter of the ReLU's work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, 10]."""
        return self.classifier(self.features(images))  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {"light": Light, "compact": Compact, "moderate": Moderate, "upstream": Upstream}


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def build(network: str, seed: int) -> nn.Module:
    """A network with the initial weights of `seed`; the global random state stays as it is.

    Raises:
        KeyError: no such network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[network]()
