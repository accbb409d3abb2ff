"""A session with a server that has what a test gives it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from multisite.admin import following


class Flare:
    """A session whose stats are what a test says."""

    startup_path = "/nowhere"

    def __init__(self, stats: object = None) -> None:
        self.stats = stats
        self.api = SimpleNamespace(closed=False)
        self.alive = True

    def set_timeout(self, value: float) -> None:
        self.timeout: float | None = value

    def unset_timeout(self) -> None:
        self.timeout = None

    def show_stats(self, job_id: str, target: str) -> Any:
        assert self.timeout == following.STATS_TIMEOUT_SECONDS
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats

    def get_system_info(self) -> object:
        if not self.alive:
            raise RuntimeError("session closed")
        return SimpleNamespace(client_info=[SimpleNamespace(name="site-1")])

    def list_jobs(self, **_: object) -> list[dict[str, str]]:
        return [{"job_id": "1", "status": "RUNNING"}]

    def close(self) -> None:
        self.api.closed = True
