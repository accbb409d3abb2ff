"""When a site's result can't come any more, and when it only takes long."""

from __future__ import annotations

import pytest

from multisite.job.watch import FIRST_SECONDS, LOST_SECONDS, SENDING_SECONDS, SILENT_SECONDS, SiteWatch

HOUR = 3600.0


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sites:
    """Two sites with a task of round 3 each, looked at every second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watch = SiteWatch(self.clock)
        self.watch.sent("train", 3, ["site-1", "site-2"])
        self.report("working", "train", 2)

    def report(self, state: str, task: str, round_: int, *sites: str) -> None:
        for site in sites or ("site-1", "site-2"):
            self.watch.reported(site, state, task, round_)

    def problems_within(self, seconds: float, reporting: tuple[str, ...] = ()) -> dict[str, str]:
        """What is found first in that time, while these sites go on reporting what they did."""
        found: dict[str, str] = {}
        for second in range(int(seconds)):
            self.clock.now += 1
            if second % 5 == 0:
                for site in reporting:
                    self.report(self.state, *self.finished, site)
            found = found or self.watch.problems()
        return found

    state, finished = "working", ("train", 2)


@pytest.fixture
def sites() -> Sites:
    return Sites()


def test_a_round_of_an_hour_is_no_problem_while_the_sites_report(sites: Sites) -> None:
    assert sites.problems_within(HOUR, ("site-1", "site-2")) == {}


def test_a_site_that_stops_to_report_is_named_and_the_other_is_not(sites: Sites) -> None:
    found = sites.problems_within(SILENT_SECONDS + 5, ("site-1",))
    assert list(found) == ["site-2"]
    assert "has not reported for 60 s" in found["site-2"]
    assert "next:" in found["site-2"]


def test_a_pause_of_50_seconds_is_no_problem(sites: Sites) -> None:
    assert sites.problems_within(50) == {}
    assert sites.problems_within(20, ("site-1", "site-2")) == {}


def test_a_server_that_was_paused_itself_blames_nobody(sites: Sites) -> None:
    sites.clock.now += 90
    assert sites.watch.problems() == {}
    assert sites.problems_within(20, ("site-1", "site-2")) == {}


def test_a_result_that_a_site_has_sent_and_that_never_came_is_a_problem(sites: Sites) -> None:
    sites.state, sites.finished = "idle", ("train", 3)
    assert "it has sent a result, and none came" in sites.problems_within(LOST_SECONDS + 10, ("site-1", "site-2"))["site-1"]


def test_a_site_that_waits_for_the_others_is_no_problem(sites: Sites) -> None:
    sites.watch.answered("site-1")
    sites.state, sites.finished = "idle", ("train", 3)
    assert sites.problems_within(HOUR, ("site-1",)).keys() <= {"site-2"}


def test_a_large_result_may_take_its_time_but_not_for_ever(sites: Sites) -> None:
    sites.state = "sending"
    assert sites.problems_within(SENDING_SECONDS - 10, ("site-1", "site-2")) == {}
    assert "tried to send" in sites.problems_within(30, ("site-1", "site-2"))["site-1"]


def test_a_process_that_ended_is_a_problem_at_once_unless_its_result_is_there(sites: Sites) -> None:
    sites.watch.answered("site-2")
    for site in ("site-1", "site-2"):
        sites.watch.ended(site, "killed")
    assert sites.watch.problems() == {"site-1": "killed"}
    sites.watch.sent("train", 4, ["site-1", "site-2"])
    assert sites.watch.problems() == {"site-1": "killed", "site-2": "killed"}


def test_a_site_that_does_not_begin_to_report_is_a_problem_too(sites: Sites) -> None:
    """Its process may be frozen before its first report."""
    sites.watch.sent("train", 3, ["site-1", "site-9"])
    assert sites.problems_within(FIRST_SECONDS - 5, ("site-1",)) == {}
    found = sites.problems_within(10, ("site-1",))
    assert list(found) == ["site-9"]
    assert "has not begun to report" in found["site-9"]


def test_the_sites_of_a_job_without_reports_are_not_waited_for_by_them() -> None:
    clock = Clock()
    watch = SiteWatch(clock, reports=False)
    watch.sent("train", 0, ["site-1"])
    for _ in range(3600):
        clock.now += 1
        assert watch.problems() == {}
