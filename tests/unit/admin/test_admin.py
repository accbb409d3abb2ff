"""The admin: its session, what it says, and a job process that gives no answer while it starts or ends."""

from __future__ import annotations

import argparse
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from nvflare.fuel.flare_api import flare_api
from nvflare.fuel.flare_api.api_spec import JobNotFound, NoConnection
from nvflare.fuel.flare_api.flare_api import Session

from multisite.admin import command_line, commands, following
from multisite.admin import service as admin_service
from multisite.admin.service import Pool, Service
from multisite.console.submit import QUIET_SECONDS
from multisite.job import progress
from tests.unit.admin.flare import Flare


@pytest.mark.parametrize(
    "answer",
    [NoConnection("cannot connect to server: ERROR_SERVER_CONNECTION"), RuntimeError("no such job"), {}, {"server": "gone"}, None],
)
def test_a_job_that_has_no_stats_now_is_no_dead_server(answer: object) -> None:
    flare = Flare(answer)
    assert following.stats(cast(Session, flare), "a job") is None
    assert flare.timeout is None, "the next command has NVFlare's own patience"


def test_the_stats_of_a_running_job_are_the_reporters_snapshot() -> None:
    assert following.stats(cast(Session, Flare({"server": {progress.STATS_GROUP: {"round": 1}}})), "a job") == {"round": 1}


class LongRound(Flare):
    """A job whose one round takes an hour, by a clock of its own."""

    def __init__(self, status: str = "RUNNING") -> None:
        super().__init__({"server": {progress.STATS_GROUP: {"round": 1, "rounds": 2, "rows": [], "started": 0.0}}})
        self.status = status
        self.now, self.end = 1000.0, 4600.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def monitor_job(self, *arguments: Any, **more: Any) -> Any:
        """NVFlare's own."""
        return Session.monitor_job(cast(Session, self), *arguments, **more)

    def monitor_job_and_return_job_meta(self, *arguments: Any, **more: Any) -> Any:
        """NVFlare's own."""
        return Session.monitor_job_and_return_job_meta(cast(Session, self), *arguments, **more)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def get_job_meta(self, job_id: str) -> dict[str, str]:
        return {"status": self.status if self.now < self.end else commands.COMPLETED}


def test_whoever_follows_a_round_of_an_hour_hears_all_along_that_the_server_has_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    flare = LongRound()
    monkeypatch.setattr(following, "time", flare)
    monkeypatch.setattr(flare_api, "time", flare)
    monkeypatch.setattr(commands, "_bring_results", lambda *_: 0)
    said: list[float] = [flare.now]
    commands._follow(cast(Session, flare), "7", lambda event, **fields: said.append(flare.now))
    gaps = [later - earlier for earlier, later in itertools.pairwise(said)]
    assert max(gaps) <= following.ALIVE_SECONDS + commands.POLL_SECONDS < QUIET_SECONDS / 4
    assert min(gaps[1:-1]) >= following.ALIVE_SECONDS, "and no oftener than that"


def test_of_a_job_that_only_waits_nothing_is_said_so_that_whoever_follows_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    flare = LongRound("SUBMITTED")
    monkeypatch.setattr(following, "time", flare)
    monkeypatch.setattr(flare_api, "time", flare)
    monkeypatch.setattr(commands, "_bring_results", lambda *_: 0)
    said: list[str] = []
    commands._follow(cast(Session, flare), "7", lambda event, **fields: said.append(fields["status"]))
    assert said == ["SUBMITTED", commands.COMPLETED]


def test_a_site_that_offers_what_json_can_not_say_has_offered_nothing_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    flare = Flare()
    monkeypatch.setattr(commands, "RESOURCES_SECONDS", 0.2)
    monkeypatch.setattr(flare, "report_resources", lambda *_: {"site-1": "{(1, 2): 3, 'x': {4}}"}, raising=False)
    assert commands._resources(cast(Session, flare), ["site-1"]) == {"site-1": {"device": "-", "shards": {}}}


class Logins:
    """Counts the logins of a pool."""

    def __init__(self) -> None:
        self.made: list[Flare] = []

    def __call__(self, seconds: float) -> Session:
        self.made.append(Flare())
        return cast(Session, self.made[-1])


def use(pool: Pool) -> Session:
    with pool.session() as flare:
        return flare


def test_commands_one_after_the_other_share_a_login() -> None:
    logins = Logins()
    pool = Pool(logins)
    assert use(pool) is use(pool)
    assert len(logins.made) == 1


def test_commands_at_the_same_time_have_a_session_each_and_one_is_kept() -> None:
    logins = Logins()
    pool = Pool(logins)
    with pool.session() as one, pool.session() as other:
        assert one is not other
    assert sum(flare.api.closed for flare in logins.made) == 1


def test_a_session_that_the_server_forgot_is_replaced() -> None:
    logins = Logins()
    pool = Pool(logins)
    use(pool)
    logins.made[0].alive = False
    assert use(pool) is cast(Session, logins.made[1])


def test_a_session_that_lost_its_server_is_not_kept() -> None:
    logins = Logins()
    pool = Pool(logins)
    with pytest.raises(NoConnection, match="gone"), pool.session():
        raise NoConnection("gone")
    use(pool)
    assert len(logins.made) == 2


def outcome_of(command: Callable[..., int]) -> tuple[int, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    code = admin_service.run(
        command, argparse.Namespace(job="7"), Pool(Logins()), lambda event, **fields: events.append({"event": event, **fields})
    )
    return code, events


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (NoConnection("refused"), command_line.EXIT_NO_SERVER, "the server does not answer: refused"),
        (JobNotFound("7"), command_line.EXIT_FAILED, "no job 7"),
        (KeyError("x"), command_line.EXIT_FAILED, "KeyError: 'x'"),
    ],
)
def test_what_goes_wrong_is_an_event_with_the_next_step(problem: Exception, code: int, words: str) -> None:
    def command(*_: object) -> int:
        raise problem

    status, events = outcome_of(command)
    assert (status, events[-1]["message"]) == (code, words)
    assert events[-1]["next"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "command_line.sock"
    with Service(path) as running:
        running.pool = Pool(Logins())
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield path
        running.shutdown()
        thread.join(10)


def test_a_command_gets_its_events_and_then_its_exit_status(service: Path) -> None:
    with command_line.call(service) as connection:
        connection.sendall(json.dumps(["jobs"]).encode() + b"\n")
        first, last = [json.loads(line) for line in connection.makefile()]
    assert first["registered"] == ["site-1"]
    assert first["jobs"][0]["status"] == "RUNNING"
    assert last == {"event": command_line.EXIT, "code": 0}


def test_only_its_own_user_may_call_the_service(service: Path) -> None:
    assert service.stat().st_mode & 0o777 == 0o600


def test_a_service_that_is_not_there_is_waited_for_and_then_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        command_line.call(tmp_path / "none", seconds=0.2)


def test_a_command_that_comes_while_the_admin_logs_in_waits_for_that_session() -> None:
    logged_in: list[Flare] = []
    may_go_on = threading.Event()

    def log_in(seconds: float) -> Session:
        assert may_go_on.wait(20.0)
        logged_in.append(Flare())
        return cast(Session, logged_in[-1])

    pool = Pool(log_in)
    pool.prepare()
    threading.Timer(0.1, may_go_on.set).start()
    with pool.session() as session:
        assert session is logged_in[0]
    assert len(logged_in) == 1


def test_a_server_that_does_not_answer_at_the_start_is_an_error_of_the_first_command() -> None:
    def log_in(seconds: float) -> Session:
        raise NoConnection("refused")

    pool = Pool(log_in)
    pool.prepare()
    with pytest.raises(NoConnection, match="refused"), pool.session():
        pass


@pytest.mark.parametrize(
    ("answers", "resources"),
    [
        ([{"site-1": "No replies"}, {"site-1": "{'device': 'cpu', 'shards': {}}"}], {"site-1": {"device": "cpu", "shards": {}}}),
        ([{"site-1": "{0: {'gpu_id': 0}}"}], {"site-1": {"device": "-", "shards": {}}}),  # a site with a kit of before
        ([RuntimeError("no responses from clients")], {}),
    ],
)
def test_a_site_that_has_just_registered_is_asked_again_for_what_it_has_to_offer(
    answers: list[Any], resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flare = Flare()
    said = iter(answers)

    def report_resources(target: str, sites: list[str]) -> dict[str, str]:
        assert (target, sites) == ("client", ["site-1"])
        answer = next(said)
        if isinstance(answer, Exception):
            raise answer
        return cast(dict[str, str], answer)

    monkeypatch.setattr(flare, "report_resources", report_resources, raising=False)
    events: list[dict[str, Any]] = []
    arguments = command_line.parse(["wait", "--sites", "site-1"])
    assert commands.wait(cast(Session, flare), arguments, lambda event, **fields: events.append(fields)) == 0
    assert events == [{"registered": ["site-1"], "missing": [], "resources": resources}]
    assert flare.timeout is None


def test_a_site_that_never_answers_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "RESOURCES_SECONDS", 0.2)
    flare = Flare()
    monkeypatch.setattr(flare, "report_resources", lambda *_: {"site-1": "No replies"}, raising=False)
    assert commands._resources(cast(Session, flare), ["site-1"]) == {}
