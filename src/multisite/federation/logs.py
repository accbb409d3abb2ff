"""What a participant writes to `docker compose logs`: `plain` (a few lines a round), `detail` (NVFlare's own) or `json`."""

from __future__ import annotations

import copy
from typing import Any

MODES = ("plain", "detail", "json")


def configure(default: dict[str, Any], mode: str) -> dict[str, Any]:
    """NVFlare's log configuration with the console as `mode` says; the files in the workspace keep everything.

    Args:
        default: NVFlare's `log_config.json.default`.
        mode: one of MODES.

    Raises:
        ValueError: another mode.
    """
    if mode not in MODES:
        raise ValueError(f"LOG={mode} is not one of {', '.join(MODES)}")
    config = copy.deepcopy(default)
    console = config["handlers"]["consoleHandler"]
    if mode == "json":
        console["formatter"] = "jsonFormatter"
    elif mode == "plain":
        config["formatters"]["plainFormatter"] = {"format": "%(asctime)s %(levelname)s %(message)s"}
        config["filters"]["plainFilter"] = {
            "()": "nvflare.fuel.utils.log_utils.LoggerNameFilter",
            "logger_names": ["multisite"],
            "exclude_logger_names": [],
        }
        console["formatter"] = "plainFormatter"
        console["filters"] = ["plainFilter"]
    return config
