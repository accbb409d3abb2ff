"""The account: who has how much, on the site, on the server, at the backend; and what is freed when."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from multisite.text import LONGEST, clean
from multisite.tracking import delivery
from multisite.tracking.delivery import Delivery, WriterProcess, sweep
from multisite.tracking.files import checked_name, load_json, save_json
from multisite.tracking.origin import Account
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER, Spool
from tests.unit.spools import age, delivered, log, reported, settings


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_what_a_site_says_it_logged_and_what_is_here_and_what_w_and_b_has_are_three_numbers(spool: Spool) -> None:
    settings(spool)
    log(spool, "site-1", 5).close()
    reported(spool, "site-1", logged=8, refused=1)
    delivered(spool, site_1=3)
    assert spool.job("job-1").accounts() == {"site-1": Account(logged=8, received=5, delivered=3, refused=1, closed=False)}
    assert spool.job("job-1").report()["pending"] == 5


def test_the_backend_can_not_confirm_more_than_is_here(spool: Spool) -> None:
    settings(spool)
    log(spool, "site-1", 2).close()
    delivered(spool, site_1=9)
    assert spool.job("job-1").accounts()["site-1"].delivered == 2


def test_a_job_is_over_when_the_process_that_owns_it_has_ended(spool: Spool) -> None:
    settings(spool)
    server = log(spool, SERVER, 1)
    assert not spool.job("job-1").is_over()
    server.close()
    assert spool.job("job-1").is_over()


def test_where_the_sites_deliver_the_report_says_which_of_them_can_not(spool: Spool) -> None:
    reported(spool, "site-1", forwards=False, logged=4, delivered=4, state="done")
    reported(spool, "site-2", forwards=False, logged=4, delivered=0, state="refused", reason="W&B refused the API key")
    report = spool.job("job-1").report()
    assert (report["state"], report["reason"], report["pending"]) == ("refused", "site-2: W&B refused the API key", 4)


def test_where_the_sites_deliver_a_note_of_one_of_them_is_said(spool: Spool) -> None:
    reported(spool, "site-1", forwards=False, logged=4, delivered=4, state="done")
    reported(spool, "site-2", forwards=False, logged=4, delivered=4, state="done", reason="2 records set aside")
    report = spool.job("job-1").report()
    assert (report["state"], report["reason"]) == ("done", "site-2: 2 records set aside")


def test_space_is_freed_only_for_what_was_delivered_and_only_after_the_stated_time(spool: Spool) -> None:
    settings(spool)
    log(spool, "site-1", 3).close()
    delivered(spool, site_1=2)
    age(spool, 30)
    assert sweep(spool) == []
    delivered(spool, site_1=3)
    assert sweep(spool) == []
    age(spool, delivery.KEEP_DAYS + 1)
    assert sweep(spool) == ["job-1"]
    assert not spool.job("job-1").folder.exists()


def test_the_time_is_a_setting(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(spool)
    log(spool, "site-1", 1).close()
    delivered(spool, site_1=1)
    age(spool, 2)
    monkeypatch.setenv("METRICS_KEEP_DAYS", "1")
    assert sweep(spool) == ["job-1"]


def test_without_a_key_nothing_is_started_and_the_reason_is_said(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings(spool)
    log(spool, "site-1", 1).close()
    agent = Delivery(spool, tmp_path / "no-key")
    agent.tick()
    assert spool.job("job-1").report()["state"] == "offline"
    assert "no API key" in caplog.text
    assert "make sync" in caplog.text
    agent.stop()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", "-" * 129, ".hidden"])
def test_a_name_that_could_leave_the_spool_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        checked_name(name)


def test_a_half_written_or_foreign_file_reads_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ', encoding="utf-8")
    assert load_json(tmp_path / "x.json") == {}
    (tmp_path / "x.json").write_text("[1]", encoding="utf-8")
    assert load_json(tmp_path / "x.json") == {}


def test_two_threads_that_count_the_same_growing_log_agree_with_it(tmp_path: Path) -> None:
    """The forwarder and the delivery of a site ask the same object."""
    origin = Spool(tmp_path).job("job").origin("site-1")
    writer = LogWriter(origin.log)
    ended = threading.Event()

    def count() -> None:
        while not ended.is_set():
            origin.rows()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for value in range(3000):
        writer.log({"loss": value}, value)
    ended.set()
    for thread in threads:
        thread.join()
    writer.close()
    assert origin.rows() == 3000


def test_two_threads_that_write_the_same_file_never_miss_it(tmp_path: Path) -> None:
    problems: list[OSError] = []

    def write(number: int) -> None:
        for _ in range(300):
            try:
                save_json(tmp_path / "site.json", {"number": number})
            except OSError as error:
                problems.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert load_json(tmp_path / "site.json")["number"] in range(3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["site.json"]


def test_a_delivery_looks_seldom_when_it_can_do_nothing_and_often_when_it_can(tmp_path: Path) -> None:
    now = time.monotonic()
    due = WriterProcess(Spool(tmp_path).job("job"), give_up_at=now + 60)
    assert not due.is_idle()
    assert replace(due, settled=True).is_idle()
    assert replace(due, not_before=now + 5).is_idle()  # no key
    assert not replace(due, not_before=now + 1).is_idle()  # a writer that is to start again
    assert replace(due, give_up_at=now - 1).is_idle()


def test_what_we_write_is_json_whatever_the_numbers_are(tmp_path: Path) -> None:
    save_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), {"c": (1.5, -float("inf"))}], "d": 1})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {"a": None, "b": [None, {"c": [1.5, None]}], "d": 1}


def test_settings_that_no_job_may_give_are_said_and_no_writer_is_started(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_json(spool.job("job-1").settings_file, {"wandb": {"dir": "/kit"}, "owner": SERVER})
    log(spool, "site-1", 1).close()
    agent = Delivery(spool, tmp_path / "no-key")
    agent.tick()
    assert spool.job("job-1").report()["state"] == "misconfigured"
    assert "'dir' is not allowed in a job" in caplog.text
    assert agent._writers["job-1"].process is None
    agent.stop()


@pytest.mark.parametrize(("changes", "freed"), [({}, ["job-1"]), ({"logged": 4}, []), ({"closed": False}, [])])
def test_a_site_that_said_more_than_is_here_or_is_not_done_keeps_its_job(
    spool: Spool, changes: dict[str, object], freed: list[str]
) -> None:
    settings(spool)
    log(spool, "site-1", 3).close()
    reported(spool, "site-1", **{"logged": 3, "closed": True, **changes})
    delivered(spool, site_1=3)
    age(spool, 30)
    assert sweep(spool) == freed


def test_a_swept_job_is_remembered_for_sites_that_come_back(spool: Spool) -> None:
    settings(spool)
    log(spool, "site-1", 3).close()
    reported(spool, "site-1", logged=3, closed=True)
    delivered(spool, site_1=3)
    age(spool, 30)
    assert sweep(spool) == ["job-1"]
    assert load_json(spool.freed_file) == {"job-1": {"site-1": 3}}


def test_what_a_site_says_is_shown_without_control_characters() -> None:
    shown = clean("a\x1b[2Jb\n\u202ec" + "x" * 1000)
    assert shown.startswith("ab cxxx")
    assert shown.isprintable()
    assert LONGEST - 5 < len(shown) <= LONGEST  # as much as a site's reason may have
