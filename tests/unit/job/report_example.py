"""Results of a job, as a deployment of two sites leaves them."""

from __future__ import annotations

import math
from typing import Any

JOB = "ed395d83-881e-4c8d-a301-3c07016d044f"
SITES = ("site-1", "site-2")
CONFIGURATION = {"name": "cifar10_fedavg", "network": "light", "rounds": "16", "lr": "0.1", "partition": "iid-seed0"}
TRACKING = {"sites": {site: {"logged": 193, "delivered": 193, "pending": 0, "refused": 0} for site in SITES}}


def row(round_: int, site: str, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "round": round_,
        "site": site,
        "accuracy": 0.1 + 0.68 * (1 - math.exp(-round_ / 4)),
        "loss": 2.3 * math.exp(-round_ / 6) + 0.6,
        "dataset": "cifar10",
    }
    if round_ < rounds:
        found |= {"train_loss": 1.8 * math.exp(-round_ / 5) + 0.5, "train_seconds": 11.0, "examples": 25_000.0}
    return found


def report(rounds: int = 16, sites: tuple[str, ...] = SITES, **more: Any) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "rows": [row(round_, site, rounds) for round_ in range(rounds + 1) for site in sites],
        "errors": {},
        "final": {"round": rounds, "accuracy": 0.78},
        "best": {"round": 14, "accuracy": 0.7823},
        "complete": True,
        **more,
    }
