"""Local training and evaluation: uint8 images kept in memory, augmented in batches on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multisite.cifar10.facts import MEAN, STD

SHIFT = 3
REPORT_STEPS = 20


@dataclass(frozen=True)
class Recipe:
    """How a site trains.

    Attributes:
        rounds: of the whole job; the learning rate's cosine runs over all of them.
        local_epochs: passes over the shard a round.
        batch: examples a step.
        lr: peak learning rate of SGD with Nesterov momentum.
        warmup: share of the job in which the rate rises.
    """

    rounds: int
    local_epochs: int
    batch: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15

    def lr_at(self, progress: float) -> float:
        """The rate at `progress` (0..1) of the whole job. It depends on nothing that a site would have to keep."""
        if progress < self.warmup:
            return self.lr * (0.1 + 0.9 * progress / self.warmup)
        return self.lr * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))))


@dataclass(frozen=True)
class Trained:
    """A round's local training: means over its examples, steps and wall time."""

    loss: float
    accuracy: float
    steps: int
    examples: int
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy and accuracy on a test set."""

    loss: float
    accuracy: float


def pick_device() -> torch.device:
    """The host's GPU if torch sees one, else its CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_memory(images: Tensor) -> Tensor:
    """Images as a site keeps them: uint8 [N, 3, 32, 32] whose pixels lie together, so that a batch is copied without a transposition."""
    return images.contiguous(memory_format=torch.channels_last)


def take(images: Tensor, indices: Tensor) -> Tensor:
    """`images[indices]`, a whole image at a time."""
    return images.permute(0, 2, 3, 1).index_select(0, indices.to(images.device)).permute(0, 3, 1, 2)


def normalize(images: Tensor) -> Tensor:
    """uint8 [N, 3, 32, 32] -> float, zero mean and unit deviation a channel, channels last."""
    pixels = images.permute(0, 2, 3, 1).contiguous().float()
    mean, std = (torch.tensor(value, device=images.device).repeat(pixels.shape[2]) for value in (MEAN, STD))
    pixels.view(-1, len(mean)).sub_(mean).div_(std)  # a row of the image at a time: channel by channel takes five times as long
    return pixels.permute(0, 3, 1, 2)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random flips and shifts by up to SHIFT pixels, the edge reflected; [N, 3, 32, 32] of any type, bytes being the fastest."""
    count, channels, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1)
    left, right = pixels[:, :, 1 : SHIFT + 1].flip(2), pixels[:, :, -SHIFT - 1 : -1].flip(2)
    padded = torch.cat((left, pixels, right), 2)
    image, row, pixel, value = padded.stride()
    windows = padded.as_strided((count, height, 2 * SHIFT + 1, width * channels), (image, row, pixel, value))
    shifts = torch.randint(0, 2 * SHIFT + 1, (2, count), generator=generator)
    flipped = (torch.rand(count, generator=generator) < 0.5).nonzero().squeeze(1).to(images.device)
    rows = (shifts[0][:, None] + torch.arange(height) - SHIFT).abs()
    rows = torch.minimum(rows, 2 * (height - 1) - rows).to(images.device)  # beyond the edge, as in a mirror
    index = torch.arange(count, device=images.device)[:, None]
    shifted = windows[index, rows, shifts[1][:, None].to(images.device)].view(count, height, width, channels)
    shifted[flipped] = shifted[flipped].flip(2)
    return shifted.permute(0, 3, 1, 2)


def batches(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled indices of every batch of a round."""
    for _ in range(recipe.local_epochs):
        yield from torch.randperm(count, generator=generator).split(recipe.batch)


def autocast(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Mixed precision on GPUs that compute in bfloat16; older ones would emulate it slowly."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


class Sgd:
    """SGD with Nesterov momentum, step for step what `torch.optim.SGD(..., nesterov=True)` computes.

    The class of torch.optim imports the compiler (dynamo, inductor, sympy) at its first step: 1.4 s and 80 MiB of every site and job.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float, weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities: list[Tensor] = []

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step with the gradients that are there, which are then gone."""
        gradients = torch._foreach_add([parameter.grad for parameter in self.parameters], self.parameters, alpha=self.weight_decay)
        if self.velocities:
            torch._foreach_mul_(self.velocities, self.momentum)
            torch._foreach_add_(self.velocities, gradients)
        else:
            self.velocities = [gradient.clone() for gradient in gradients]
        torch._foreach_add_(gradients, self.velocities, alpha=self.momentum)
        torch._foreach_add_(self.parameters, gradients, alpha=-lr)
        for parameter in self.parameters:
            parameter.grad = None


def train_round(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    round: int,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, float], None] | None = None,
) -> Trained:
    """Trains `model` in place for one round. The same arguments give the same weights on the same machine.

    Args:
        model: on `device`.
        images: uint8 [N, 3, 32, 32], on the CPU or the device; fastest as `in_memory` gives them.
        labels: integers [N].
        recipe: see Recipe.
        round: 0-based; selects the learning rates and, with `seed`, the random draws.
        seed: the job's and the site's.
        device: where to compute.
        on_step: called with the step (within the round) and the mean loss since the last call, every REPORT_STEPS steps
            and after the round's last, so that a small shard reports too.
    """
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed * 10_007 + round)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Sgd(model.parameters(), recipe.momentum, recipe.weight_decay)
    steps = recipe.local_epochs * -(-len(labels) // recipe.batch)
    total, recent = torch.zeros(2, device=device), torch.zeros((), device=device)
    seen, reported = 0, -1
    for step, indices in enumerate(batches(len(labels), recipe, generator)):
        inputs = normalize(augment(take(images, indices).to(device), generator))
        targets = labels[indices].to(device, torch.long)
        with autocast(device):
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step(recipe.lr_at((round + step / steps) / recipe.rounds))
        with torch.no_grad():
            total += torch.stack((loss * len(targets), (logits.argmax(1) == targets).sum().float()))
            recent += loss
        seen += len(targets)
        if on_step and (step - reported == REPORT_STEPS or step + 1 == steps):
            on_step(step, recent.item() / (step - reported))
            recent.zero_()
            reported = step
    loss_sum, correct = total.tolist()
    return Trained(loss_sum / seen, correct / seen, steps, len(labels), time.perf_counter() - started)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device, batch: int = 100) -> Evaluation:
    """Evaluates `model` on uint8 images [N, 3, 32, 32] and integer labels [N]."""
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss, correct = 0.0, 0
    for some_images, some_labels in zip(images.split(batch), labels.split(batch), strict=True):
        targets = some_labels.to(device, torch.long)
        with autocast(device):
            logits = model(normalize(some_images.to(device)))
        loss += F.cross_entropy(logits.float(), targets, reduction="sum").item()
        correct += int((logits.argmax(1) == targets).sum())
    return Evaluation(loss / len(labels), correct / len(labels))
