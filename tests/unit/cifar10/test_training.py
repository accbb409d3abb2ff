"""Local training and evaluation."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multisite.cifar10.model import NETWORKS, build
from multisite.cifar10.source import synthetic
from multisite.cifar10.training import (
    REPORT_STEPS,
    SHIFT,
    Recipe,
    Sgd,
    augment,
    batches,
    evaluate,
    in_memory,
    normalize,
    take,
    train_round,
)
from multisite.job import options

CPU = torch.device("cpu")
Data = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """PyTorch's own is as before after a test."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def data() -> Data:
    """A small synthetic set: train images and labels, test images and labels."""
    made = synthetic(sizes=(1000, 200))
    return tuple(torch.from_numpy(array) for array in vars(made).values())  # type: ignore[return-value]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_gives_ten_logits_an_image(network: str) -> None:
    assert build(network, seed=0)(torch.zeros(3, 3, 32, 32)).shape == (3, 10)


def test_the_networks_are_those_that_the_options_offer() -> None:
    assert tuple(NETWORKS) == options.NETWORKS


def test_the_upstream_network_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in build("upstream", 0).parameters()) == 62_006


def test_the_upstream_network_pools_before_its_relu_and_computes_what_the_published_order_does() -> None:
    network = build("upstream", 0)
    conv1, pool, relu, conv2, *_ = network.features  # type: ignore[misc, union-attr]
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    published = network.classifier(pool(relu(conv2(pool(relu(conv1(images)))))))  # type: ignore[operator]
    assert torch.equal(network(images), published)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_seed_builds_the_same_weights_and_another_seed_others(network: str) -> None:
    assert same(weights(build(network, 3)), weights(build(network, 3)))
    assert not same(weights(build(network, 3)), weights(build(network, 4)))


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    build("compact", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_network_is_an_error() -> None:
    with pytest.raises(KeyError, match="resnet"):
        build("resnet", 0)


def test_images_are_taken_as_they_are_in_either_memory_layout(data: Data) -> None:
    indices = torch.tensor([3, 999, 0, 3])
    for images in (data[0], in_memory(data[0])):
        assert torch.equal(take(images, indices), data[0][indices])
        assert torch.equal(normalize(take(images, indices)), normalize(data[0][indices]))


def test_augmenting_keeps_shape_and_type() -> None:
    images = torch.rand(8, 3, 32, 32)
    augmented = augment(images, torch.Generator().manual_seed(0))
    assert (augmented.shape, augmented.dtype) == (images.shape, images.dtype)


def test_an_augmented_image_is_a_shifted_crop_flipped_or_not() -> None:
    images = torch.arange(16 * 3 * 32 * 32, dtype=torch.float32).reshape(16, 3, 32, 32)
    padded = nn.functional.pad(images, (SHIFT,) * 4, mode="reflect")
    for image, result in zip(padded, augment(images, torch.Generator().manual_seed(1)), strict=True):
        crops = [image[:, y : y + 32, x : x + 32] for y in range(2 * SHIFT + 1) for x in range(2 * SHIFT + 1)]
        assert any(torch.equal(result, crop) or torch.equal(result, crop.flip(2)) for crop in crops)


def test_augmenting_flips_about_half_and_shifts_every_way() -> None:
    ramp = torch.arange(32.0).expand(3, 32, 32)
    augmented = augment(ramp.expand(2000, 3, 32, 32), torch.Generator().manual_seed(2))
    middle = augmented[:, 0, 16, 10:22]
    flipped = middle[:, 0] > middle[:, -1]
    assert 0.45 < flipped.float().mean().item() < 0.55
    assert set((middle[~flipped, 0] - 10).int().tolist()) == set(range(-SHIFT, SHIFT + 1))


def test_augmenting_is_a_function_of_its_generator() -> None:
    images = torch.rand(8, 3, 32, 32)
    first, second, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_normalized_images_have_zero_mean_and_unit_deviation() -> None:
    images = torch.tensor([125, 123, 114], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    normal = normalize(images)
    assert normal.dtype == torch.float32
    assert normal.abs().max().item() < 0.01
    white = normalize(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert white[0, 0, 0, 0].item() == pytest.approx((255 - 125.3) / 63.0, abs=1e-5)


def test_normalizing_leaves_the_images_alone(data: Data) -> None:
    before = data[0][:10].clone()
    normalize(data[0][:10])
    assert torch.equal(data[0][:10], before)


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    recipe = Recipe(rounds=10, local_epochs=1, batch=128, lr=0.2)
    assert recipe.lr_at(0.0) == pytest.approx(0.02)
    assert recipe.lr_at(recipe.warmup) == pytest.approx(0.2)
    assert recipe.lr_at(1.0) == pytest.approx(0.001)
    rates = [recipe.lr_at(step / 1000) for step in range(1001)]
    peak = rates.index(max(rates))
    assert peak == 150
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(abs(one - other) for one, other in itertools.pairwise(rates)) < 0.2 / 100


def test_an_epochs_batches_hold_every_example_once() -> None:
    recipe = Recipe(rounds=1, local_epochs=2, batch=30, lr=0.1)
    drawn = list(batches(100, recipe, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in drawn] == [30, 30, 30, 10] * 2
    first, second = torch.cat(drawn[:4]), torch.cat(drawn[4:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert not torch.equal(first, second)


def test_the_same_seed_gives_identical_weights_after_a_round(data: Data) -> None:
    recipe = Recipe(rounds=2, local_epochs=1, batch=50, lr=0.1)

    def trained(seed: int, round: int = 0) -> dict[str, Tensor]:
        model = build("compact", 0)
        train_round(model, data[0][:200], data[1][:200], recipe, round, seed, CPU)
        return weights(model)

    reference = trained(seed=1)
    torch.rand(3)  # the global random state plays no part
    assert same(reference, trained(seed=1))
    assert not same(reference, trained(seed=2))
    assert not same(reference, trained(seed=1, round=1))


def test_a_tiny_synthetic_set_is_learned_far_better_than_chance(data: Data) -> None:
    recipe = Recipe(rounds=3, local_epochs=1, batch=25, lr=0.05)
    model = build("compact", 0)
    before = evaluate(model, data[2], data[3], CPU)
    results = [train_round(model, data[0], data[1], recipe, round, 0, CPU) for round in range(3)]
    after = evaluate(model, data[2], data[3], CPU)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.6
    assert after.loss < before.loss
    assert results[-1].loss < results[0].loss
    assert results[-1].accuracy > results[0].accuracy


def test_a_round_reports_its_steps_examples_and_time(data: Data) -> None:
    recipe = Recipe(rounds=1, local_epochs=2, batch=64, lr=0.1)
    result = train_round(build("compact", 0), data[0][:100], data[1][:100], recipe, 0, 0, CPU)
    assert (result.steps, result.examples) == (4, 100)
    assert result.seconds > 0
    assert math.isfinite(result.loss)
    assert 0 <= result.accuracy <= 1


def test_a_step_is_reported_every_so_many_steps_and_after_the_last_with_the_mean_loss_since(data: Data) -> None:
    recipe = Recipe(rounds=1, local_epochs=1, batch=4, lr=0.01)
    count = 4 * (2 * REPORT_STEPS + 5)
    reported: list[tuple[int, float]] = []
    result = train_round(
        build("upstream", 0), data[0][:count], data[1][:count], recipe, 0, 0, CPU, lambda step, loss: reported.append((step, loss))
    )
    assert [step for step, _ in reported] == [REPORT_STEPS - 1, 2 * REPORT_STEPS - 1, 2 * REPORT_STEPS + 4]
    assert result.steps == 2 * REPORT_STEPS + 5
    first, second, last = (loss for _, loss in reported)
    assert (REPORT_STEPS * (first + second) + 5 * last) / result.steps == pytest.approx(result.loss, rel=1e-5)


def test_the_reported_loss_is_the_rounds_mean_loss_when_one_report_spans_it(data: Data) -> None:
    recipe = Recipe(rounds=1, local_epochs=1, batch=4, lr=0.01)
    reported: list[float] = []
    count = 4 * REPORT_STEPS
    result = train_round(
        build("upstream", 0), data[0][:count], data[1][:count], recipe, 0, 0, CPU, lambda _, loss: reported.append(loss)
    )
    assert reported == [pytest.approx(result.loss, rel=1e-5)]


class Brightness(nn.Module):
    """Says class 1 of bright images and class 0 of dark ones, with a margin of 4."""

    def forward(self, images: Tensor) -> Tensor:
        bright = (images.mean((1, 2, 3)) > 0).float()
        logits = torch.full((len(images), 10), -1e9)
        logits[:, 0], logits[:, 1] = 4 * (1 - bright), 4 * bright
        return logits


def test_evaluation_counts_right_over_uneven_batches() -> None:
    images = torch.zeros(25, 3, 32, 32, dtype=torch.uint8)
    images[:10] = 255
    labels = torch.from_numpy(np.array([1] * 8 + [0] * 17, np.uint8))  # two bright images are called 0: wrong
    result = evaluate(Brightness(), images, labels, CPU, batch=7)
    right, wrong = math.log(1 + math.exp(-4)), math.log(1 + math.exp(4))
    assert result.accuracy == pytest.approx(23 / 25)
    assert result.loss == pytest.approx((23 * right + 2 * wrong) / 25, rel=1e-5)


def test_evaluation_changes_no_weight(data: Data) -> None:
    model = build("compact", 0)
    before = weights(model)
    evaluate(model, data[2], data[3], CPU)
    assert same(weights(model), before)


def test_a_round_of_training_loads_no_compiler() -> None:
    """Dynamo, inductor and sympy are 1.4 s of a job's first step."""
    script = (
        "import sys, torch; from multisite.cifar10.model import build; from multisite.cifar10.training import *\n"
        "images, labels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)\n"
        "model, cpu = build('upstream', 0), torch.device('cpu')\n"
        "train_round(model, images, labels, Recipe(1, 1, 4, 0.1), 0, 0, cpu); evaluate(model, images, labels, cpu)\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_the_optimizer_computes_bit_for_bit_what_torch_optim_sgd_does() -> None:
    ours, theirs = build("upstream", 0), build("upstream", 0)
    optimizer = Sgd(ours.parameters(), momentum=0.9, weight_decay=5e-4)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        inputs = torch.randn(8, 3, 32, 32, generator=generator)
        for model in (ours, theirs):
            model(inputs).square().mean().backward()
        optimizer.step(0.1 / (step + 1))
        reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        reference.step()
        reference.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
