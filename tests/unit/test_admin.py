"""Following a job: what a job process that is starting or ending answers must not end it."""

from __future__ import annotations

from typing import Any, cast

import pytest
from nvflare.fuel.flare_api.api_spec import NoConnection
from nvflare.fuel.flare_api.flare_api import Session

from multisite.console import admin_commands
from multisite.federation import progress


class Flare:
    """A session whose stats are what a test says."""

    def __init__(self, stats: object) -> None:
        self.stats = stats

    def show_stats(self, job_id: str, target: str) -> Any:
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


@pytest.mark.parametrize(
    "answer",
    [NoConnection("cannot connect to server: ERROR_SERVER_CONNECTION"), RuntimeError("no such job"), {}, {"server": "gone"}, None],
)
def test_a_job_that_has_no_stats_now_is_no_dead_server(answer: object) -> None:
    assert admin_commands._stats(cast(Session, Flare(answer)), "a job") is None


def test_the_stats_of_a_running_job_are_the_reporters_snapshot() -> None:
    assert admin_commands._stats(cast(Session, Flare({"server": {progress.STATS_GROUP: {"round": 1}}})), "a job") == {"round": 1}
