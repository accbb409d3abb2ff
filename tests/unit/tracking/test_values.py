"""What a call of `log` may hold; W&B's own functions are the oracle wherever they have an answer."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from wandb.util import json_friendly, maybe_compress_history

from multisite.tracking.values import DEPTH, plain_metrics


def taken(value: Any) -> Any:
    metrics, refused = plain_metrics({"x": value, "loss": 0.5})
    assert refused == {}
    assert metrics["loss"] == 0.5
    json.dumps(metrics)
    return metrics["x"]


def reason(value: Any) -> str:
    metrics, refused = plain_metrics({"loss": 0.5, "x": value})
    assert metrics == {"loss": 0.5}, "the rest of the call must be kept"
    assert list(refused) == ["x"]
    return refused["x"]


def of_the_sdk(value: Any) -> Any:
    """What the SDK makes of a value in a history row."""
    friendly, _ = json_friendly(value)
    compressed, _ = maybe_compress_history(friendly)
    return compressed


ARRAYS = [
    np.float32(0.5), np.float16(0.5), np.int64(3), np.bool_(True), np.array(2.5), np.array([2.5]), np.array([]), np.eye(3),
    np.arange(32), np.arange(33), np.linspace(0, 1, 1000), np.arange(4096).reshape(64, 64), torch.tensor(0.5), torch.tensor([0.5]),
    torch.eye(3), torch.arange(1000.0), torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(0.5, requires_grad=True),
]  # fmt: skip


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{type(value).__name__} {value.dtype} {tuple(value.shape)}")
def test_an_array_is_what_the_sdk_makes_of_it_a_number_a_list_or_a_histogram(value: Any) -> None:
    assert taken(value) == of_the_sdk(value)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (None, None), (True, True), ("text", "text"), ("\ud800", "\ud800"), (2**53 + 1, 2**53 + 1), (2**64 + 1, 2**64 + 1),
        (10**5000, math.inf), (-(10**5000), -math.inf), ([1, (2, 3)], [1, [2, 3]]), ({1, 2}, [1, 2]), (frozenset({1}), [1]),
        ({"a": {"b": np.float32(0.5)}}, {"a": {"b": 0.5}}), ({1: 2, None: 3, 4.5: 5}, {"1": 2, "null": 3, "4.5": 5}),
        (datetime.date(2026, 1, 2), "2026-01-02"), (decimal.Decimal("0.1"), "0.1"), (Path("/a/b"), "/a/b"), (b"text", "text"),
        (np.longdouble(0.5), 0.5), ([np.float32(0.5)], [0.5]),
    ],
    ids=lambda value: str(type(value).__name__),
)  # fmt: skip
def test_a_value_of_everyday_python_is_sent(value: Any, sent: Any) -> None:
    assert taken(value) == sent


class Raises:
    """Whatever is asked of it, it raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error

    def __str__(self) -> str:
        raise self.error


class Silent(Exception):
    """An error that can't be shown."""

    def __str__(self) -> str:
        raise ValueError


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (wandb.Image(np.zeros((4, 4, 3), dtype=np.uint8)), "media are not delivered (Image)"),
        (wandb.Histogram(np.arange(3)), "media are not delivered (Histogram)"),
        ([wandb.Table(columns=["a"], data=[[1]])], "media are not delivered (Table)"),
        (object(), "an object of type object is no metric"),
        (ValueError("bad"), "an object of type ValueError is no metric"),
        (len, "an object of type builtin_function_or_method is no metric"),
        (range(3), "an object of type range is no metric"),
        ((number for number in range(3)), "an object of type generator is no metric"),
        (np.array([object()]), "an array of objects is no metric"),
        ({(1, 2): 3}, "a name is text, not tuple"),
        (b"\xff", "bytes: UnicodeDecodeError"),
        (torch.empty(3, device="meta"), "Tensor: "),
        (np.full(100, np.nan), "ndarray: ValueError"),
        (Raises(KeyError("k")), "Raises: KeyError"),
        (Raises(ZeroDivisionError("z")), "Raises: ZeroDivisionError"),
        (Raises(OSError("o")), "Raises: OSError"),
        (Raises(Silent()), "Raises: Silent: (Silent without a text)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_no_metric_is_refused_by_its_name_and_the_rest_of_the_call_is_kept(value: Any, said: str) -> None:
    assert said in reason(value)


def test_what_contains_itself_or_is_too_deep_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert reason(loop) == f"it is nested deeper than {DEPTH} levels"


def test_an_enum_is_its_text() -> None:
    assert taken(Colour.RED) == str(Colour.RED)


@pytest.mark.parametrize("call", [None, 5, "abc", [1], np.array(5.0)], ids=str)
def test_a_call_without_names_is_refused_as_a_whole(call: Any) -> None:
    assert plain_metrics(call) == ({}, {"the call": f"metrics come as a dict of names and values, not as {type(call).__name__}"})


def test_half_a_character_in_a_name_costs_that_metric_alone() -> None:
    assert plain_metrics({"a\ud800": 1, "ü": 2}) == ({"ü": 2}, {"a": "the name has half of a character"})
