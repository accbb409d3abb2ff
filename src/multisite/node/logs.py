"""What a participant writes to `docker compose logs`: `plain` (a few lines a round), `detail` (NVFlare's own) or `json`."""

from __future__ import annotations

import copy
import logging
from typing import Any

from multisite.text import printable

MODES = ("plain", "detail", "json")

# Transport chatter: it is retried, and what it leads to is logged by whoever waited for it.
TRANSPORT = ("nvflare.fuel.f3.cellnet", "nvflare.fuel.f3.mpm", "nvflare.fuel.f3.streaming")
# Speaks with NVFlare's own words, which it inherits; the round reporter says the same in fewer.
INHERITED = ("multisite.job.controller", "multisite.job.executor")
# What NVFlare warns of at the end of every healthy job.
END_OF_JOB = ("END_RUN received", "missing job on client")


class TextFilter(logging.Filter):
    """Lets everything pass, without control characters: what a site sends ends up in the server's log, and on a terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        """logging's filter seam."""
        message = record.getMessage()
        if (text := printable(message)) != message:
            record.msg, record.args = text, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = printable(logging.Formatter().formatException(record.exc_info))
        return True


class PlainFilter(logging.Filter):
    """Our own messages, and everybody's warnings and errors except the transport's."""

    def filter(self, record: logging.LogRecord) -> bool:
        """logging's filter seam."""
        name = getattr(record, "fullName", record.name)
        if name.startswith("multisite") and not name.startswith(INHERITED):
            return True
        if record.levelno <= logging.INFO or name.startswith(TRANSPORT):
            return False
        return record.levelno > logging.WARNING or not any(text in record.getMessage() for text in END_OF_JOB)


def configure(default: dict[str, Any], mode: str) -> dict[str, Any]:
    """NVFlare's log configuration with the console as `mode` says; the files in the workspace keep every message.

    Args:
        default: NVFlare's `log_config.json.default`.
        mode: one of MODES.

    Raises:
        ValueError: another mode.
    """
    if mode not in MODES:
        raise ValueError(f"LOG={mode} is not one of {', '.join(MODES)}")
    config = copy.deepcopy(default)
    config["filters"]["textFilter"] = {"()": "multisite.node.logs.TextFilter"}
    for handler in config["handlers"].values():
        handler["filters"] = [*handler.get("filters", []), "textFilter"]
    console = config["handlers"]["consoleHandler"]
    if mode == "json":
        console["formatter"] = "jsonFormatter"
    elif mode == "plain":
        config["formatters"]["plainFormatter"] = {"format": "%(asctime)s %(levelname)s %(message)s"}
        config["filters"]["plainFilter"] = {"()": "multisite.node.logs.PlainFilter"}
        console["formatter"] = "plainFormatter"
        console["filters"].insert(0, "plainFilter")
    return config
