"""What a site says that it has to offer (`node/resources.py`), read with care: a site's operator may have written anything into it."""

from __future__ import annotations

import ast
from typing import Any

from multisite.text import clean, number

LONGEST_REPORT, MOST_SHARDS = 64 * 1024, 100


def read_report(text: str) -> dict[str, Any]:
    """What a site reported, as far as it is what a site may say: `device` (a line of text) and `shards` (see below).

    Args:
        text: NVFlare's, of a dictionary; a site's operator may have written anything into it.
    """
    try:
        report = ast.literal_eval(text[:LONGEST_REPORT])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the site's error, half a report, or nonsense
        return {}
    if not isinstance(report, dict):
        return {}
    held = report.get("shards")
    kept = {}
    for name, shard in list(held.items())[:MOST_SHARDS] if isinstance(held, dict) else []:
        if isinstance(shard, dict) and isinstance(shard.get("examples"), int):
            numbers = {key: number(shard.get(key)) for key in ("alpha", "seed")}
            kept[clean(name, 60)] = {"examples": shard["examples"], "dataset": clean(shard.get("dataset", ""), 60), **numbers}
    return {"device": clean(report.get("device", "-"), 60), "shards": kept}
