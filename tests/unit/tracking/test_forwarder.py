"""From a site's spool to the server's: any message may be lost, answered twice or never, and either side may start again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisite.tracking import forwarder
from multisite.tracking.files import save_json
from multisite.tracking.forwarder import DONE, ROUTE, Forwarder
from multisite.tracking.frames import MAGIC
from multisite.tracking.intake import Intake
from multisite.tracking.records import LogWriter, RecordRefused
from multisite.tracking.spool import Job, Spool
from tests.unit.metric_messages import message, records

SITE = "site-1"


class Federation:
    """A site's spool and a server's, with a line between them that the test may cut."""

    def __init__(self, folder: Path, forwards: bool = True) -> None:
        self.site, self.server = Spool(folder / "site"), Spool(folder / "server")
        self.job = self.site.job("job-1")
        self.known = {"job-1"}
        self.asked: list[str] = []
        self.log = LogWriter(self.job.origin(SITE).log)
        save_json(self.job.origin(SITE).folder / ROUTE, {"forwards": forwards})
        self.intake = Intake(self.server, self.knows)
        self.forwarder = Forwarder(self.site, self.send)
        self.lose_request = self.lose_answer = False
        self.logged = 0

    def knows(self, job: str) -> bool:
        self.asked.append(job)
        return job in self.known

    def send(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if self.lose_request:
            return None
        answer = self.intake.take(SITE, message)
        return None if self.lose_answer else answer

    def log_some(self, count: int) -> None:
        for _ in range(count):
            self.log.log({"value": self.logged}, self.logged)
            self.logged += 1

    def restart_site(self) -> None:
        self.forwarder = Forwarder(self.site, self.send)

    def restart_server(self) -> None:
        self.intake.close()
        self.intake = Intake(self.server, self.knows)

    def kill_job(self) -> None:
        self.log.close()
        self.log = LogWriter(self.job.origin(SITE).log)

    def settle(self) -> None:
        self.lose_request = self.lose_answer = False
        for _ in range(200):
            for upload in self.forwarder._uploads.values():
                upload.retry_at = min(upload.retry_at, 0.001)
            self.forwarder._waits.clear()
            self.forwarder.tick()
            if self.server.job("job-1").origin(SITE).log.exists() and self.copy() == self.original():
                return
        raise AssertionError("the two logs do not become the same")

    def copy(self) -> bytes:
        return self.server.job("job-1").origin(SITE).log.read_bytes()

    def original(self) -> bytes:
        return self.job.origin(SITE).log.read_bytes()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


EVENTS = st.sampled_from(["log", "tick", "lose request", "lose answer", "heal", "restart site", "restart server", "kill job"])


@given(events=st.lists(EVENTS, max_size=30))
@settings(max_examples=100, deadline=None)
def test_whatever_is_lost_or_starts_again_the_server_ends_with_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    federation = Federation(tmp_path_factory.mktemp("federation"))
    actions = {
        "log": lambda: federation.log_some(3),
        "tick": lambda: federation.forwarder.tick(),
        "lose request": lambda: setattr(federation, "lose_request", True),
        "lose answer": lambda: setattr(federation, "lose_answer", True),
        "heal": lambda: vars(federation).update(lose_request=False, lose_answer=False),
        "restart site": federation.restart_site,
        "restart server": federation.restart_server,
        "kill job": federation.kill_job,
    }
    for event in events:
        actions[event]()
        for upload in federation.forwarder._uploads.values():
            upload.retry_at = min(upload.retry_at, 0.001)  # pauses are for people
    federation.log_some(1)
    federation.settle()
    assert federation.server.job("job-1").origin(SITE).rows() == federation.logged


def test_a_batch_is_bounded_so_memory_is(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "BATCH_BYTES", 500)
    sizes = []
    send = federation.send
    federation.forwarder = Forwarder(federation.site, lambda message: sizes.append(len(message["data"])) or send(message))
    federation.log_some(200)
    federation.settle()
    assert max(sizes) <= 500


def test_the_server_knows_the_account_of_a_site_that_delivers_itself(tmp_path: Path) -> None:
    federation = Federation(tmp_path, forwards=False)
    federation.log_some(5)
    save_json(federation.job.writer_file, {"state": "online", "runs": {SITE: {"delivered": 3}}})
    federation.forwarder.tick()
    account = federation.server.job("job-1").accounts()[SITE]
    assert (account.logged, account.received, account.delivered, account.pending, account.closed) == (5, 5, 3, 2, False)
    assert not federation.server.job("job-1").origin(SITE).log.exists()


def test_a_full_disk_of_the_server_is_said_and_cured_by_space(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation.forwarder.tick()

    def full(self: LogWriter, data: bytes) -> None:
        raise RecordRefused("No space left on device")

    federation.log_some(3)
    real = LogWriter._write
    monkeypatch.setattr(LogWriter, "_write", full)
    federation.forwarder.tick()
    assert "No space left on device" in caplog.text
    monkeypatch.setattr(LogWriter, "_write", real)
    federation.settle()


def test_a_closed_log_is_done_only_when_its_last_row_is_delivered(federation: Federation) -> None:
    federation.log_some(2)
    federation.settle()
    federation.log.close()
    done = federation.job.origin(SITE).folder / DONE
    tick(federation)
    assert not done.exists()
    save_json(federation.server.job("job-1").writer_file, {"runs": {SITE: {"delivered": 2}}})
    tick(federation)
    assert done.exists()
    assert federation.server.job("job-1").accounts()[SITE].closed
    assert not federation.forwarder.tick()


def test_a_job_that_waits_for_the_servers_delivery_is_left_alone_until_somebody_asks(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.log_some(2)
    federation.settle()
    federation.log.close()
    tick(federation)
    looked_at: list[str] = []
    monkeypatch.setattr(Job, "signature", lambda job: (looked_at.append(job.id), 0.0)[1:])
    for _ in range(5):
        federation.forwarder.tick()
    assert not looked_at
    federation.site.sync_file.touch()
    federation.forwarder.tick()
    assert looked_at


@pytest.mark.parametrize("restarted", [False, True])
def test_a_record_that_comes_to_a_finished_log_is_forwarded(federation: Federation, restarted: bool) -> None:
    federation.log_some(2)
    federation.settle()
    federation.log.close()
    save_json(federation.server.job("job-1").writer_file, {"runs": {SITE: {"delivered": 2}}})
    tick(federation)
    done = federation.job.origin(SITE).folder / DONE
    assert done.exists()
    assert not federation.forwarder._uploads  # nothing is kept of it in memory
    federation.log = LogWriter(federation.log.path)
    federation.log_some(1)
    if restarted:
        federation.restart_site()
    federation.settle()
    assert not done.exists()  # or its records would be freed before they are delivered


def tick(federation: Federation) -> None:
    for _ in range(3):
        for upload in federation.forwarder._uploads.values():
            upload.retry_at = min(upload.retry_at, 0.001)
        federation.forwarder._waits.clear()
        federation.forwarder.tick()


@pytest.mark.parametrize("site", ["", "server", "../site-2", "a/b"])
def test_a_name_that_is_no_site_is_refused(federation: Federation, site: str) -> None:
    assert federation.intake.take(site, message(logged=1, data=records(1)))["error"].endswith("is no site")
    assert not federation.server.root.exists()


def test_one_site_can_not_write_into_the_log_of_another(federation: Federation) -> None:
    federation.log_some(1)
    federation.settle()
    before = federation.copy()
    longer = before[len(MAGIC) :] + records(1)
    assert "error" not in federation.intake.take("site-2", message(logged=2, data=longer))
    assert federation.copy() == before
    assert federation.server.job("job-1").origin("site-2").rows() == 2


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"forwards": "yes"}', '{"forwards": null}', '{"way": true}'])
@pytest.mark.parametrize("delivers", [False, True])
def test_a_log_without_its_route_is_forwarded_unless_it_is_delivered_from_its_site_and_that_is_said_once(
    federation: Federation, caplog: pytest.LogCaptureFixture, content: str | None, delivers: bool
) -> None:
    file = federation.job.origin(SITE).folder / ROUTE
    if content is None:
        file.unlink()
    else:
        file.write_text(content, encoding="utf-8")
    if delivers:
        save_json(federation.job.settings_file, {"wandb": {}, "axes": {}, "owner": SITE})
    federation.log_some(3)
    tick(federation)
    account = federation.server.job("job-1").accounts()[SITE]
    assert account.logged == 3
    assert federation.server.job("job-1").origin(SITE).rows() == (0 if delivers else 3)
    said = [record.getMessage() for record in caplog.records if "route.json" in record.getMessage()]
    assert len(said) == 1
    assert ("delivered from here" if delivers else "go to the server") in said[0]


@pytest.mark.parametrize("name", ["writer.json", "site-1/refused.json"])
def test_a_damaged_file_of_a_site_costs_what_it_says_and_no_records(federation: Federation, name: str) -> None:
    (federation.job.folder / name).write_text('{"runs": 5, "count": "x"}', encoding="utf-8")
    federation.log_some(3)
    federation.settle()


@pytest.mark.parametrize(
    "answer", [{}, {"size": "x"}, {"size": None, "rows": 0, "delivered": 0}, {"size": 20, "rows": 0, "delivered": []}]
)
def test_an_answer_that_is_none_is_said_and_the_next_one_counts(
    federation: Federation, caplog: pytest.LogCaptureFixture, answer: dict[str, Any]
) -> None:
    federation.log_some(3)
    federation.log.close()
    honest = federation.send
    federation.forwarder = Forwarder(federation.site, lambda message: answer)
    for _ in range(5):
        federation.forwarder.tick()
    federation.forwarder._send = honest
    federation.settle()
    assert "nothing is lost: the server's answer can't be used: " in caplog.text


@pytest.mark.parametrize(
    ("reason", "reported"),
    [("W&B refused the API key", ("refused", "site-1: W&B refused the API key")), ("no\x1b[2J key", ("", ""))],
)
def test_what_a_sites_own_writer_says_reaches_the_server_unless_it_is_no_line_of_text(
    tmp_path: Path, reason: str, reported: tuple[str, str]
) -> None:
    federation = Federation(tmp_path, forwards=False)
    federation.log_some(1)
    save_json(federation.job.writer_file, {"state": "refused", "reason": reason})
    federation.forwarder.tick()
    report = federation.server.job("job-1").report()
    assert (report["state"], report["reason"]) == reported
    assert report["sites"][SITE]["logged"] == 1
