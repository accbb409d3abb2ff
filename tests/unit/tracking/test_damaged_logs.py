"""A log that ends in the middle of a frame is whole up to there; of one that is damaged in the middle, nothing is thrown away."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisite.tracking import damage
from multisite.tracking.damage import Rest
from multisite.tracking.delivery import sweep
from multisite.tracking.files import save_json
from multisite.tracking.forwarder import DONE
from multisite.tracking.frames import HEAD, MAGIC, MAX_RECORD_BYTES, frame
from multisite.tracking.log_reader import LogReader
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import Origin, Spool
from tests.unit.spools import age, log, reported

FRAME = frame(b'[1700000000.5,3,{"train/loss":0.25,"classes":[1,2,3]}]')


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def origin(spool: Spool) -> Origin:
    return spool.job("job-1").origin("site-1")


def rest_of(path: Path) -> Rest | None:
    reader = LogReader(path)
    reader.count()
    return reader.rest()


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


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
def test_a_torn_frame_is_no_damage(tmp_path_factory: pytest.TempPathFactory, rows: int, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    path.write_bytes(MAGIC + FRAME * rows + FRAME[:cut])
    rest = rest_of(path)
    assert rest is not None
    assert (rest.start, rest.records, rest.searched) == (len(MAGIC) + len(FRAME) * rows, 0, True)
    assert LogReader(path).damage() == ""
    LogWriter(path).close()
    assert os.listdir(path.parent) == ["records.log"]


@given(data=st.data(), rows=st.integers(2, 8))
@settings(max_examples=100, deadline=None)
def test_a_damaged_byte_anywhere_costs_one_record_and_the_others_are_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    path.write_bytes(MAGIC + FRAME * rows)
    hit = data.draw(st.integers(0, rows - 1))
    flip(path, len(MAGIC) + hit * len(FRAME) + data.draw(st.integers(0, len(FRAME) - 1)))
    rest = rest_of(path)
    assert rest is not None
    assert (rest.start, rest.records) == (len(MAGIC) + hit * len(FRAME), rows - hit - 1)


@pytest.mark.parametrize("served", [False, True])
def test_a_damaged_log_is_reported_before_and_after_it_is_reopened(origin: Origin, spool: Spool, served: bool) -> None:
    log(spool, "site-1", 60).close()
    if served:
        reported(spool, "site-1", logged=60)
    byte = start_of(origin.log, 9)
    flip(origin.log, byte + 12)
    content = origin.log.read_bytes()
    said = f"records.log is damaged at byte {byte}: 50 records behind it can't be delivered"
    account = origin.account({})
    assert (account.received, account.problem) == (9, said)
    assert spool.job("job-1").report()["problems"] == [f"site-1: {said}"]
    log(spool, "site-1", 2).close()
    kept = origin.log.with_name("records.log.damaged")
    assert kept.read_bytes() == b"multisite-damaged-1 %d\n" % byte + content[byte:]
    assert origin.log.read_bytes()[:byte] == content[:byte]
    for looks in (origin, Spool(spool.root).job("job-1").origin("site-1")):
        account = looks.account({})
        assert (account.received, account.problem) == (11, f"{said}; they are kept in records.log.damaged")


def test_a_second_damage_is_kept_beside_the_first(origin: Origin, spool: Spool) -> None:
    for _ in range(2):
        log(spool, "site-1", 6).close()
        flip(origin.log, start_of(origin.log, 4) + 12)
        log(spool, "site-1", 0).close()
        origin.log.write_bytes(origin.log.read_bytes()[: start_of(origin.log, 2)])
    names = sorted(path.name for path in origin.folder.iterdir())
    assert names == ["records.log", "records.log.damaged", "records.log.damaged.1"]
    byte = start_of(origin.log, 2)
    assert "is damaged at 2 places, the first at byte" in origin.account({}).problem
    assert byte < int(origin.account({}).problem.split(" at byte ")[1].split(":")[0])


def test_what_was_kept_of_a_damaged_log_is_not_freed_though_the_rest_of_the_job_is_delivered(origin: Origin, spool: Spool) -> None:
    log(spool, "site-1", 6).close()
    flip(origin.log, start_of(origin.log, 4) + 12)
    log(spool, "site-1", 0).close()
    save_json(origin.folder / DONE, {"delivered": 4})
    age(spool, 30)
    assert sweep(spool) == []
    origin.log.with_name("records.log.damaged").unlink()
    assert sweep(spool) == ["job-1"]


def test_a_damaged_log_is_not_cut_where_there_is_no_room_for_what_must_be_kept(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(spool, "site-1", 6).close()
    flip(origin.log, start_of(origin.log, 2) + 12)
    content = origin.log.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            LogWriter(origin.log)
    assert origin.log.read_bytes() == content
    assert os.listdir(origin.folder) == ["records.log"]
    assert origin.account({}).closed


def test_a_damaged_log_that_grows_is_searched_from_where_the_last_search_stopped(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = log(spool, "site-1", 10)
    byte = start_of(origin.log, 4)
    flip(origin.log, byte + 12)
    assert ": 5 records behind it" in origin.account({}).problem
    read: list[int] = []
    real = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        if offset != byte:  # there the reader looks whether the frame is whole now
            read.append(offset)
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    assert ": 5 records behind it" in origin.account({}).problem
    assert read == []
    size = origin.log.stat().st_size
    for step in range(3):
        writer.log({"value": step}, step)
    assert ": 8 records behind it" in origin.account({}).problem
    assert min(read) == size
    writer.close()


def test_frames_at_the_seams_of_what_is_read_at_once_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of every length up to the longest, with noise between them."""
    monkeypatch.setattr(damage, "MAX_FRAME_BYTES", 300)
    monkeypatch.setattr(damage, "CHUNK_BYTES", 700)
    noise = [bytes(30), b"[" * 50, FRAME[:20], HEAD.pack(MAX_RECORD_BYTES, 0) + b"[", b"\x08\0\0\0____[]"]
    parts = [noise[n % 5] + frame(b"[" + b"x" * (n % 290 + 6) + b"]") for n in range(400)]
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + b"".join(parts))
    rest = rest_of(path)
    assert rest is not None
    assert (rest.records, rest.searched) == (400, True)


def test_a_rest_is_searched_no_further_than_a_limit_and_says_so(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "SEARCHED_BYTES", 1000)
    log(spool, "site-1", 100).close()
    flip(origin.log, start_of(origin.log, 4) + 12)
    assert re.search(r": at least \d\d records behind it", origin.account({}).problem)
    log(spool, "site-1", 0).close()
    assert re.search(r": at least \d\d records behind it", origin.account({}).problem)


def test_what_only_looks_like_frames_is_summed_no_further_than_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "SUMMED_BYTES", 10_000)
    path = tmp_path / "records.log"
    path.write_bytes(MAGIC + bytes(8) + (HEAD.pack(100, 0) + b"[]" * 4) * 1000 + FRAME)
    rest = rest_of(path)
    assert rest is not None
    assert (rest.records, rest.searched) == (0, False)
    LogWriter(path).close()
    assert (tmp_path / "records.log.damaged").exists()
