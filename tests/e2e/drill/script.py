"""The training script of a job that only logs metrics: any NVFlare job's script could stand here. No PyTorch, no CIFAR-10."""

from __future__ import annotations

import argparse
import statistics
import time

PATTERNS = ("global", "repeated", "disorder", "restart", "absent", "cifar10")


def step_of(pattern: str, number: int, value: int, values: int) -> int | None:
    """The step that value `value` (from 0) of round `number` is logged with."""
    if pattern == "cifar10":  # NVFlare's own client: losses by global step, then a validation metric by round
        return number if value == values - 1 else number * values + value
    return {
        "global": number * values + value,
        "repeated": number * values + value // 3,
        "disorder": number * values + (value * 7919) % values,
        "restart": value,
        "absent": None,
    }[pattern]


def expected(rounds: int, values: int, pattern: str = "") -> list[tuple[int, int | None]]:
    """(identity, step) of everything that one site logs, in order."""
    return [
        (number * values + value, step_of(pattern or PATTERNS[number % len(PATTERNS)], number, value, values))
        for number in range(rounds)
        for value in range(values)
    ]


def main() -> None:
    """The Client API loop: logs `values` values a round, over `seconds`."""
    import numpy as np
    import nvflare.client as flare
    from nvflare.client.tracking import WandBWriter

    parser = argparse.ArgumentParser()
    parser.add_argument("--values", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--pattern", default="")
    parser.add_argument("--late", default="", help="SITE:ROUND: that site logs nothing before that round")
    options = parser.parse_args()
    flare.init()
    writer = WandBWriter()
    late_site, _, late_round = options.late.partition(":")
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        number = int(model.current_round or 0)
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": 0.5}))
            continue
        pattern = options.pattern or PATTERNS[number % len(PATTERNS)]
        started, costs = time.perf_counter(), []
        quiet = flare.get_site_name() == late_site and number < int(late_round)
        for value in range(0 if quiet else options.values):
            before = time.perf_counter()
            writer.log(
                {"id": number * options.values + value, "loss": 1.0 / (value + 1)}, step_of(pattern, number, value, options.values)
            )
            costs.append(time.perf_counter() - before)
            ahead = started + options.seconds * value / options.values - time.perf_counter()
            if ahead > 0.002:
                time.sleep(ahead)
        costs = sorted(costs) or [0.0]
        metrics = {
            "log_p50_us": statistics.median(costs) * 1e6,
            "log_p99_us": costs[int(len(costs) * 0.99)] * 1e6,
            "round_seconds": time.perf_counter() - started,
            "accuracy": 0.5,
        }
        flare.send(flare.FLModel(params={"w": np.zeros(1, dtype=np.float32)}, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
