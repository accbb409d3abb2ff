"""What a call of `log` may hold: each value as W&B's SDK would send it, or refused by its name with the reason.

The SDK's own rules are in `wandb/util.py` (`json_friendly`, `maybe_compress_history`): an array of one element is a number, one of up to
32 a list, a larger one a histogram of 32 bins.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from multisite.text import clean

LIST_ELEMENTS = 32  # above it the SDK sends a histogram
BINS = 32
FLOAT_BITS = 1024  # what has more is no finite float
DEPTH = 100
PLAIN = frozenset({float, int, bool, str, type(None)})
AS_TEXT = (datetime.timedelta, decimal.Decimal, fractions.Fraction, complex, pathlib.PurePath)
REASON_CHARACTERS = 200
INVALID = re.compile("[\ud800-\udfff]")  # a surrogate on its own: no text of it can be sent


class ValueRefused(Exception):
    """A value can't be sent. The message says why."""


def plain_metrics(metrics: object) -> tuple[dict[str, Any], dict[str, str]]:
    """The metrics of one call that can be sent, in the types of JSON, and those that can't be. Raises nothing, whatever a value does.

    Returns:
        name -> value, and name -> why it was refused.
    """
    if not isinstance(metrics, Mapping):
        return {}, {"the call": f"metrics come as a dict of names and values, not as {type(metrics).__name__}"}
    try:
        items = list(metrics.items())
    except Exception as error:  # a value is anybody's class: training goes on whatever it raises
        return {}, {"the call": _said(metrics, error)}
    taken: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for key, value in items:
        if (
            type(key) is str
            and key.isascii()
            and type(value) in PLAIN
            and not (type(value) is int and value.bit_length() > FLOAT_BITS)
        ):
            taken[key] = value
            continue
        try:
            taken[_name(key)] = _plain(value, DEPTH)
        except ValueRefused as reason:
            refused[_shown(key)] = str(reason)
        except Exception as error:  # as above
            refused[_shown(key)] = _said(value, error)
    return taken, refused


def _said(value: object, error: Exception) -> str:
    return clean(f"{type(value).__name__}: {type(error).__name__}: {_shown(error)}", REASON_CHARACTERS)


def _shown(anything: object) -> str:
    try:
        return clean(str(anything), REASON_CHARACTERS)
    except Exception:
        return f"({type(anything).__name__} without a text)"


def _name(key: object) -> str:
    """JSON's name of a key."""
    if isinstance(key, str):
        if INVALID.search(key):
            raise ValueRefused("the name has half of a character")
        return str(key)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, (int, float)):
        return str(key)
    raise ValueRefused(f"a name is text, not {type(key).__name__}")


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueRefused(f"it is nested deeper than {DEPTH} levels")
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value) if value.bit_length() <= FLOAT_BITS else (math.inf if value > 0 else -math.inf)
    if type(value) in PLAIN:
        return value
    if isinstance(value, (float, str)):
        return float(value) if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return {_name(key): _plain(element, depth - 1) for key, element in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(element, depth - 1) for element in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, AS_TEXT):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()  # as the SDK does; what is no UTF-8 is refused
    if type(value).__module__.partition(".")[0] == "wandb":
        raise ValueRefused(f"media are not delivered ({type(value).__name__})")
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return _array(value, depth)
    raise ValueRefused(f"an object of type {type(value).__name__} is no metric")


def _array(value: Any, depth: int) -> Any:
    """A NumPy or PyTorch scalar or array: a number, a list, or a histogram, by its size."""
    import numpy

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) in ("torch.bfloat16", "torch.float16") else value).numpy()
    array = numpy.asarray(value)
    if array.dtype.kind == "O":
        raise ValueRefused("an array of objects is no metric")
    if array.dtype.kind in "Mm":
        array = array.astype(str)
    if array.dtype.kind == "f":
        array = array.astype(numpy.float64)  # `item` of a longdouble is a longdouble again
    if array.size == 1:
        return _plain(array.reshape(()).item(), depth - 1)
    if array.size <= LIST_ELEMENTS:
        return _plain(array.tolist(), depth - 1)
    if array.dtype.kind not in "biuf":
        raise ValueRefused(f"an array of {array.dtype} with {array.size} elements is no metric")
    counts, edges = numpy.histogram(array.astype(numpy.float64) if array.dtype.kind == "b" else array, bins=BINS)
    return {"_type": "histogram", "values": counts.tolist(), "bins": edges.tolist()}
