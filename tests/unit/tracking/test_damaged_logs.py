"""Damage costs the damaged records and no other: whatever lies behind it keeps its place, and nothing that is logged later is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisite.tracking import damage, log_reader
from multisite.tracking.damage import lost_reason
from multisite.tracking.delivery import sweep
from multisite.tracking.files import save_json
from multisite.tracking.forwarder import DONE
from multisite.tracking.frames import HEAD, MAGIC, MAX_RECORD_BYTES, frame
from multisite.tracking.log_reader import LogReader
from multisite.tracking.origin import Origin
from multisite.tracking.records import LogWriter, Record, RecordDamaged, decode, encode
from multisite.tracking.spool import Spool
from tests.unit.spools import age, log
from tests.unit.tracking.test_forwarder import Federation, tick

FRAME = frame(b'[1700000000.5,3,{"train/loss":0.25,"classes":[1,2,3]}]')


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def origin(spool: Spool) -> Origin:
    return spool.job("job-1").origin("site-1")


def values(path: Path) -> list[object]:
    """What was logged, by number; None where a record is lost."""
    reader, found = LogReader(path, "site-1"), list[object]()
    while batch := reader.read(200):
        assert reader.rows == len(found) + len(batch)
        found += [None if lost_reason(payload) else decode(payload).metrics["value"] for payload in batch]
    assert reader.unread == 0
    return found


def flip(path: Path, *bytes_: int) -> None:
    content = bytearray(path.read_bytes())
    for byte in bytes_:
        content[byte] ^= 1
    path.write_bytes(content)


def overwrite(path: Path, start: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)


def start_of(path: Path, rows: int) -> int:
    reader = LogReader(path)
    reader.skip(rows)
    return reader.offset


def test_zeros_at_the_end_are_no_records_and_no_damage(origin: Origin, spool: Spool) -> None:
    log(spool, "site-1", 3).close()
    size = origin.log.stat().st_size
    with open(origin.log, "ab") as file:
        file.write(bytes(5000))
    account = origin.account({})
    assert (account.logged, account.problem) == (3, "")
    log(spool, "site-1", 0).close()
    assert origin.log.stat().st_size == size


def test_a_torn_last_frame_is_nothing_unread_until_the_file_grows(origin: Origin, spool: Spool) -> None:
    log(spool, "site-1", 3).close()
    with open(origin.log, "ab") as file:
        file.write(FRAME[:-1])
    reader = LogReader(origin.log)
    assert reader.unread
    assert reader.count() == 3
    assert reader.unread == 0
    with open(origin.log, "ab") as file:
        file.write(FRAME[-1:])
    assert reader.unread == len(FRAME)
    assert reader.count() == 4


def test_a_reader_that_is_set_back_has_unread_records_though_it_has_seen_the_end(origin: Origin, spool: Spool) -> None:
    log(spool, "site-1", 3).close()
    reader = LogReader(origin.log)
    while reader.read(1 << 20):
        pass
    reader.offset = len(MAGIC)
    assert reader.unread


@given(rows=st.integers(1, 6), cut=st.integers(1, len(FRAME) - 1))
@settings(max_examples=50, deadline=None)
def test_a_torn_frame_is_cut_off(tmp_path_factory: pytest.TempPathFactory, rows: int, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    path.write_bytes(MAGIC + FRAME * rows + FRAME[:cut])
    assert LogReader(path).count() == rows
    LogWriter(path).close()
    assert path.read_bytes() == MAGIC + FRAME * rows


@given(data=st.data(), rows=st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_a_damaged_byte_anywhere_costs_one_record_and_every_other_keeps_its_number(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    log = LogWriter(path)
    ends = [log.size for value in range(rows) if log.append(encode(Record(1700000000.5, 1, {"value": value})))]
    log.close()
    hit = data.draw(st.integers(0, rows - 1))
    start, size = [len(MAGIC), *ends][hit], path.stat().st_size
    flip(path, data.draw(st.integers(start, ends[hit] - 1)))
    expected = [None if value == hit else value for value in range(rows)]
    assert values(path) == expected
    again = LogWriter(path)
    assert (again.size, again.rows) == (size, rows)
    assert again.log({"value": "new"}, 1) == rows + 1
    again.close()
    assert values(path) == [*expected, "new"]


@pytest.mark.parametrize("noise", [bytes(700), os.urandom(700), b"\xff" * 700], ids=["zeros", "noise", "ones"])
def test_a_damaged_block_counts_for_no_fewer_records_than_it_had(origin: Origin, spool: Spool, noise: bytes) -> None:
    """Or what is logged later would have numbers that the backend has already."""
    log(spool, "site-1", 60).close()
    overwrite(origin.log, start_of(origin.log, 20) + 15, noise)
    again = log(spool, "site-1", 1)
    assert again.rows >= 61
    again.close()
    found = values(origin.log)
    assert found[:20] == list(range(20))
    kept = [value for value in found[20:] if value is not None]
    assert kept == [*range(60 - len(kept) + 1, 60), 0]
    assert len(kept) > 20


def test_a_long_damaged_record_is_one_record(origin: Origin, spool: Spool) -> None:
    writer = log(spool, "site-1", 1)
    writer.log({"value": "x" * 100_000}, 1)
    writer.log({"value": 2}, 1)
    writer.close()
    flip(origin.log, start_of(origin.log, 1) + 500)
    assert values(origin.log) == [0, None, 2]


def test_a_damaged_end_is_lost_when_nobody_appends_any_more(origin: Origin, spool: Spool) -> None:
    writer = log(spool, "site-1", 3)
    flip(origin.log, writer.size - 3)
    reader = LogReader(origin.log)
    assert reader.count() == 2
    assert reader.unread == 0
    writer.close()
    assert reader.unread
    assert reader.count() == 3
    assert values(origin.log) == [0, 1, None]


def test_bytes_of_a_record_that_was_not_taken_cost_no_record_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + FRAME + FRAME[:5] + FRAME)
    assert [decode(payload).step for payload in LogReader(path).read(1 << 20) + LogReader(path).read(1)] == [3, 3]
    reader = LogReader(path)
    assert reader.count() == 2
    assert reader.offset == path.stat().st_size


def test_a_filler_says_where_the_damage_is_as_far_as_it_has_room() -> None:
    said = "damaged on the disk of site-1, at byte 1234 of records.log; next: look at the disk of site-1: it is lost"
    assert lost_reason(b"[broken 1234 site-1   ]") == said
    assert lost_reason(b"[broken]") == "damaged on the disk; next: look at the disk: it is lost"
    assert lost_reason(b"[broken \x1b]") == lost_reason(b"[1,2,{}]") == ""
    with pytest.raises(RecordDamaged, match="at byte 1234 "):
        decode(b"[broken 1234]")


@pytest.mark.parametrize("size", range(1, 40))
def test_a_log_with_noise_at_its_end_is_read_to_an_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + FRAME + b"\xff" * size)
    reader = LogReader(path)
    reader.count()
    assert reader.unread == 0
    again = LogWriter(path)
    assert (again.size, again.rows) == (reader.offset, reader.rows)
    again.close()


# --- on the way to the server ---


@pytest.mark.parametrize("sent", [0, 5, 30])
@pytest.mark.parametrize("damaged", ["bit", "block", "end", "zeroed end"])
def test_whenever_a_sites_log_is_damaged_the_server_gets_every_other_record_and_all_that_is_logged_later(
    tmp_path: Path, sent: int, damaged: str
) -> None:
    """What the server had before the damage stays."""
    federation = Federation(tmp_path)
    site, server = (spool.job("job-1").origin("site-1") for spool in (federation.site, federation.server))
    federation.log_some(sent)
    federation.settle()
    federation.log_some(30 - sent)
    federation.log.close()
    byte = start_of(site.log, 29 if "end" in damaged else 3) + 20
    if damaged == "block":
        overwrite(site.log, byte, bytes(300))
    elif damaged == "zeroed end":
        overwrite(site.log, byte, bytes(site.log.stat().st_size - byte))
    else:
        flip(site.log, byte)
    federation.log = LogWriter(site.log)
    federation.site = Spool(federation.site.root)  # the process that counted the records before the damage is gone
    federation.restart_site()
    federation.log_some(5)
    federation.log.close()
    tick(federation)
    tick(federation)
    assert server.log.stat().st_size == site.log.stat().st_size
    found = values(server.log)
    kept = [value for value in found if isinstance(value, int)]
    assert [value for value in kept if value >= 30] == [30, 31, 32, 33, 34]
    assert set(range(sent)) <= set(kept)
    assert len(kept) >= (25 if damaged == "block" else 34)
    account = federation.server.job("job-1").accounts()["site-1"]
    assert (account.logged, account.received, account.closed) == (len(found), len(found), True)


def test_a_site_whose_log_is_shorter_than_the_servers_copy_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that loses what it had confirmed."""
    federation = Federation(tmp_path)
    federation.log_some(10)
    federation.settle()
    os.truncate(federation.log.path, start_of(federation.log.path, 5))
    federation.restart_site()
    tick(federation)
    assert "and no record begins there; next: look at this site's disk" in caplog.text


# --- bounds ---


def test_what_an_earlier_version_kept_of_a_damaged_log_is_reported_and_never_freed(origin: Origin, spool: Spool) -> None:
    log(spool, "site-1", 6).close()
    kept = origin.log.with_name("records.log.damaged")
    kept.write_bytes(b"multisite-damaged-1 20\n" + FRAME)
    save_json(origin.folder / DONE, {"delivered": 6})
    age(spool, 30)
    assert sweep(spool) == []
    assert origin.account({}).problem.endswith("next: look at the disk, then delete records.log.damaged")
    kept.unlink()
    assert sweep(spool) == ["job-1"]


def test_frames_at_the_seams_of_what_is_read_at_once_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "CHUNK_BYTES", 70)
    noise = [bytes(30), b"[" * 50, FRAME[:20], HEAD.pack(MAX_RECORD_BYTES, 0) + b"[" * 9, b"\x08\0\0\0____[]______"]
    parts = [noise[n % 5] + frame(b"[" + b"x" * (n % 290 + 6) + b"]") for n in range(400)]
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + b"".join(parts))
    reader, found = LogReader(path), 0
    while batch := reader.read(1 << 20):
        found += sum(payload.startswith(b"[x") for payload in batch)
    assert found == 400
    assert reader.offset == path.stat().st_size


def test_a_large_damage_is_read_in_batches_and_sent_in_whole_frames(tmp_path: Path) -> None:
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + bytes(3 * MAX_RECORD_BYTES) + FRAME)
    reader = LogReader(path)
    while batch := reader.read(10_000):
        assert sum(len(frame(payload)) for payload in batch) <= 10_100
        whole = reader.offset, reader.rows
    assert whole == (path.stat().st_size, reader.rows)


def test_what_only_looks_like_frames_is_searched_no_further_than_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "SEARCH_COST", 10_000)
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + bytes(8) + (HEAD.pack(100, 0) + b"[]" * 4) * 1000 + FRAME)
    LogWriter(path).close()
    assert path.stat().st_size == len(MAGIC) + 8 + 16_000 + len(FRAME)
    reader = LogReader(path)
    reader.count()
    assert reader.offset == path.stat().st_size
