"""Records that can't be sent, with the real client: set aside by their number, and every other one is delivered."""

from __future__ import annotations

import os
from pathlib import Path

from multisite.tracking.records import LogWriter
from tests.simulator.delivery import Site, wait_for
from tests.wandb_backend.client import rows

BAD_PAYLOADS = [
    b"not json",
    b"\xff\xfe" * 4,
    b'{"a": 1}',
    b"[1, 2, 3, 4]",
    b'[1, 1, "text"]',
    b'[1, 1, [["a", 1]]]',
    b'["today", 1, {"a": 1}]',
    b'[NaN, 1, {"a": 1}]',
    b'[true, 1, {"a": 1}]',
    b"[" * 5000 + b"]" * 5000,
    b'[1, 1, {"\\ud800": 1}]',  # a whole record, which the client refuses
]


def log_with_bad_ones(site: Site) -> None:
    """A good record, then every bad one with a good one after it."""
    site.log(1)
    for payload in BAD_PAYLOADS:
        site.logs["site-1"].append(payload)
        site.log(1)


def check_set_aside(site: Site) -> None:
    """Row n stands for record n, whatever the record is, and the account has both."""
    history = rows(site.state().run("site-1-n"))
    assert [row.get("value") for row in history[::2]] == list(range(len(BAD_PAYLOADS) + 1))
    assert [row.get("records/set_aside") for row in history[1::2]] == [2 * n for n in range(1, len(BAD_PAYLOADS) + 1)]
    account = site.report()["sites"]["site-1"]
    assert (account["set_aside"], account["pending"]) == (len(BAD_PAYLOADS), 0)


def test_a_record_that_is_none_is_set_aside_by_its_number_and_every_other_is_delivered(site: Site) -> None:
    site.logs["site-2"] = LogWriter(site.job.origin("site-2").log)
    log_with_bad_ones(site)
    for value in range(20):
        site.logs["site-2"].log({"other": value}, value)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    check_set_aside(site)
    assert f"site-1: {len(BAD_PAYLOADS)} records set aside, first number 2: no JSON" in site.report()["reason"]
    assert [row["other"] for row in rows(site.state().run("site-2-n"))] == list(range(20))
    assert site.state().run("site-1-n")["summary"]["records/set_aside"] == len(BAD_PAYLOADS)


def damage(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_what_is_logged_after_delivered_records_were_damaged_is_delivered_and_nothing_twice(site: Site) -> None:
    site.log(20)
    wait_for(lambda: site.report()["pending"] == 0)
    site.logs["site-1"].close()
    damage(site.logs["site-1"].path, 200)
    damage(site.logs["site-1"].path, site.logs["site-1"].size - 3)
    site.logs["site-1"] = LogWriter(site.logs["site-1"].path)
    site.log(5)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert site.values() == list(range(25))


def test_a_damaged_record_is_set_aside_and_the_account_says_where_and_what_to_do_next(site: Site) -> None:
    site.logs["site-1"].close()
    sent = site.spool.root / "sent" / "site-1" / "records.log"
    site.logs["site-1"] = LogWriter(sent)
    site.log(5)
    damage(sent, 130)
    os.replace(sent, site.job.origin("site-1").log)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert [row.get("value", "lost") for row in rows(site.state().run("site-1-n"))] == [0, 1, "lost", 3, 4]
    assert site.report()["sites"]["site-1"]["set_aside"] == 1
    said = "site-1: 1 records set aside, first number 3: damaged on the disk, at byte "
    assert site.report()["reason"].startswith(said)
    assert site.report()["reason"].endswith("of records.log; next: look at the disk: it is lost")


def test_a_writer_that_was_killed_counts_what_is_set_aside_once(site: Site) -> None:
    log_with_bad_ones(site)
    wait_for(lambda: site.report()["sites"]["site-1"]["pending"] == 0)
    site.writer().kill()
    site.writer().wait()
    site.log(5)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert site.report()["sites"]["site-1"]["set_aside"] == len(BAD_PAYLOADS)
    assert site.values() == list(range(len(BAD_PAYLOADS) + 6))
