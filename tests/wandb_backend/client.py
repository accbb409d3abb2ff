"""What tests use to steer the stand-in and to read what it recorded. Standard library only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

JsonObject = dict[str, Any]

REQUEST_TIMEOUT_S = 30.0
POLL_S = 0.2
REFUSAL_S = 90.0


def rows(run: JsonObject) -> list[JsonObject]:
    """The history rows of a run record, in line order, each decoded from its JSON line."""
    history: dict[str, str] = run["history"]
    return [json.loads(history[number]) for number in sorted(history, key=int)]


def distinct_rows(run: JsonObject) -> list[JsonObject]:
    """The history rows without repeats, in line order. ``wandb sync`` of a run that streamed appends all rows again."""
    by_content = {json.dumps(row, sort_keys=True): row for row in rows(run)}
    return list(by_content.values())


def missing_lines(run: JsonObject) -> list[int]:
    """The line numbers below the highest received one that never arrived: empty when there is no gap."""
    received = {int(number) for number in run["history"]}
    return sorted(set(range(max(received, default=-1) + 1)) - received)


def config_values(run: JsonObject) -> JsonObject:
    """The run's own config, key by key, without the SDK's ``_wandb`` entry and the ``{"value": ...}`` wrapping."""
    return {key: entry["value"] for key, entry in run["config"].items() if key != "_wandb"}


@dataclass(frozen=True)
class BackendState:
    """One snapshot of everything the backend recorded (the answer of ``GET /_stub/state``)."""

    document: JsonObject

    @classmethod
    def from_json(cls, text: str | bytes) -> BackendState:
        """Load a snapshot from its JSON text."""
        return cls(json.loads(text))

    @classmethod
    def fetch(cls, base_url: str) -> BackendState:
        """Take a snapshot of a running backend."""
        return cls.from_json(_call(f"{base_url}/_stub/state"))

    def runs(self, group: str | None = None, job_type: str | None = None, project: str | None = None) -> list[JsonObject]:
        """The run records that match, in order of arrival."""
        wanted = {"group": group, "job_type": job_type, "project": project}
        return [
            run
            for run in self.document["runs"].values()
            if all(value is None or run[field] == value for field, value in wanted.items())
        ]

    def run(self, name: str, group: str | None = None, job_type: str | None = None) -> JsonObject:
        """The one run with this id or display name; ``LookupError`` if there is none or more than one."""
        found = [run for run in self.runs(group, job_type) if name in (run["name"], run["display_name"])]
        if len(found) != 1:
            known = sorted(f"{run['name']} ({run['display_name']})" for run in self.runs())
            raise LookupError(f"{len(found)} runs named {name!r} in group {group!r}; known: {known}")
        return found[0]

    def rows(self, run: JsonObject | str) -> list[JsonObject]:
        """The decoded history rows, in line order, of a run record or of the run of that name."""
        return rows(self.run(run) if isinstance(run, str) else run)

    @property
    def rejected(self) -> list[JsonObject]:
        """The requests that no known key came with: ``ip``, ``presented``, ``path``, ``time``."""
        return list(self.document["rejected"])

    @property
    def leaks(self) -> list[JsonObject]:
        """The requests that carried a known key in their path or body: ``ip``, ``path``, ``labels``."""
        return list(self.document["leaks"])

    @property
    def unknown_ops(self) -> dict[str, str]:
        """The GraphQL operations that the stand-in does not know, with their query text; a test wants none."""
        return dict(self.document["unknown_ops"])


def reset(base_url: str) -> None:
    """Forget everything recorded and clear every fault."""
    _call(f"{base_url}/_stub/reset", {})


def set_faults(base_url: str, **faults: float | str) -> None:
    """Show these faults from now on: ``graphql``, ``file_stream``, ``storage``, ``delay``, ``drop``, ... (`Faults`). None: clear."""
    _call(f"{base_url}/_stub/fault", faults)


def delete_run(base_url: str, run_id: str) -> None:
    """Delete a run as in W&B's page: its id answers 409 from now on."""
    _call(f"{base_url}/_stub/delete", {"run": run_id})


def rename_run(base_url: str, run_id: str, name: str) -> None:
    """Rename a run as in W&B's page."""
    _call(f"{base_url}/_stub/rename", {"run": run_id, "name": name})


def add_rows(base_url: str, run_id: str, new: list[JsonObject], project: str = "p", display_name: str = "") -> None:
    """Rows that somebody else adds to a run, from a notebook say; the run is made if there is none."""
    _call(f"{base_url}/_stub/rows", {"run": run_id, "project": project, "rows": new, "display_name": display_name})


def wait_until(base_url: str, condition: Callable[[BackendState], bool], timeout_s: float) -> BackendState:
    """Poll until a snapshot meets the condition and return it; ``TimeoutError`` if none does in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        state = BackendState.fetch(base_url)
        if condition(state):
            return state
        if time.monotonic() > deadline:
            raise TimeoutError(f"the backend's state did not meet the condition within {timeout_s} s")
        time.sleep(POLL_S)


def _call(url: str, order: JsonObject | None = None) -> bytes:
    """One request. A backend that was told to refuse connections refuses these too: they are tried until it is back."""
    body = None if order is None else json.dumps(order).encode()
    deadline = time.monotonic() + REFUSAL_S
    while True:
        try:
            with urlopen(Request(url, data=body), timeout=REQUEST_TIMEOUT_S) as response:
                content: bytes = response.read()
            return content
        except HTTPError:
            raise
        except (OSError, HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
