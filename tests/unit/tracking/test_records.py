"""The record log: whatever happens to the file, what was logged before is there, in order, and nothing else is."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisite.tracking.damage import lost_reason
from multisite.tracking.frames import HEAD, MAGIC, MAX_RECORD_BYTES, frame, whole_frames
from multisite.tracking.log_reader import LogReader
from multisite.tracking.records import LogWriter, RecordDamaged, RecordRefused, decode, is_open

METRICS = st.dictionaries(st.text(max_size=8), st.floats() | st.integers(-(2**40), 2**40) | st.text(max_size=5), max_size=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job" / "site-1" / "records.log"


def read_all(path: Path) -> list[bytes]:
    reader, found = LogReader(path), []
    while batch := reader.read(100):
        found += batch
    return found


def write(path: Path, payloads: list[bytes]) -> None:
    log = LogWriter(path)
    for payload in payloads:
        log.append(payload)
    log.close()


@given(logged=st.lists(st.tuples(METRICS, st.none() | st.integers()), max_size=20))
@settings(max_examples=50, deadline=None)
def test_what_is_logged_is_read_in_order_with_its_own_step(tmp_path_factory: pytest.TempPathFactory, logged: list[Any]) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    log = LogWriter(path)
    numbers = [log.log(metrics, step) for metrics, step in logged]
    log.close()
    assert numbers == list(range(1, len(logged) + 1))
    found = [decode(payload) for payload in read_all(path)]
    assert repr([(dict(record.metrics), record.step) for record in found]) == repr(logged)


@given(payloads=st.lists(st.binary(min_size=8, max_size=40), min_size=1, max_size=8), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_crash_at_any_byte_loses_only_the_record_being_written(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    write(path, payloads)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    ends = [len(MAGIC)]
    for payload in payloads:
        ends.append(ends[-1] + HEAD.size + len(payload))
    kept = max(0, sum(end <= cut for end in ends) - 1)
    assert read_all(path) == payloads[:kept]
    write(path, [b"after the crash"])
    assert read_all(path) == [*payloads[:kept], b"after the crash"]


@given(payloads=st.lists(st.binary(min_size=8, max_size=40), min_size=1, max_size=5), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_byte_is_never_taken_for_a_record(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    write(path, payloads)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(len(MAGIC), len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    found = [payload for payload in read_all(path) if not lost_reason(payload)]
    left = iter(payloads)
    assert all(payload in left for payload in found)  # each of them, in order


@given(payloads=st.lists(st.binary(min_size=8, max_size=30), max_size=30), rows=st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_a_reader_goes_on_after_any_number_of_records(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], rows: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "records.log"
    write(path, payloads)
    reader = LogReader(path)
    reader.skip(rows)
    assert reader.rows == min(rows, len(payloads))
    assert reader.read(1 << 20) == payloads[rows:]


def test_a_record_larger_than_a_batch_is_read_alone(path: Path) -> None:
    write(path, [b"x" * 5000, b"y" * 8])
    reader = LogReader(path)
    assert reader.read(100) == [b"x" * 5000]
    assert reader.read(100) == [b"y" * 8]


@given(payloads=st.lists(st.binary(min_size=8, max_size=20), min_size=1, max_size=12), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_copy_takes_every_record_once_whatever_is_sent_twice_or_too_early(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    write(folder / "site.log", payloads)
    content = (folder / "site.log").read_bytes()
    copy = LogWriter(folder / "copy.log")
    starts = [len(MAGIC)]
    for payload in payloads:
        starts.append(starts[-1] + HEAD.size + len(payload))
    for _ in range(data.draw(st.integers(0, 10))):
        start = data.draw(st.sampled_from(starts))
        copy.extend(start, content[start : data.draw(st.sampled_from(starts))])
        assert content.startswith((folder / "copy.log").read_bytes())
    copy.extend(copy.size, content[copy.size :])
    assert (folder / "copy.log").read_bytes() == content
    assert copy.rows == len(payloads)


def test_a_full_disk_refuses_the_record_and_keeps_the_ones_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(path)
    log.append(b"[before]")
    real = os.write

    def half_full(descriptor: int, data: bytes) -> int:
        if len(data) > 4:
            return real(descriptor, data[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", half_full)
    with pytest.raises(RecordRefused, match="No space left on device"):
        log.append(b"lost for want of space")
    monkeypatch.undo()
    log.append(b"[after it]")
    log.close()
    assert read_all(path) == [b"[before]", b"[after it]"]


def test_numbers_of_numpy_are_numbers_and_what_is_no_number_is_text(path: Path) -> None:
    log = LogWriter(path)
    log.log({"loss": np.float32(0.5), "n": np.int64(3), "where": Path("/data")}, 1)
    log.close()
    assert decode(read_all(path)[0]).metrics == {"loss": 0.5, "n": 3, "where": "/data"}


def test_a_record_that_w_and_b_would_drop_for_its_size_is_refused(path: Path) -> None:
    log = LogWriter(path)
    with pytest.raises(RecordRefused, match="at most"):
        log.log({"x": "x" * MAX_RECORD_BYTES}, None)
    assert log.rows == 0


def test_two_processes_never_write_one_log(path: Path) -> None:
    log = LogWriter(path)
    with pytest.raises(BlockingIOError):
        LogWriter(path)
    assert is_open(path)
    log.close()
    assert not is_open(path)
    LogWriter(path).close()


def _hold(path: Path, ready: Any) -> None:
    log = LogWriter(path)
    log.append(b"the first")
    ready.set()
    multiprocessing.Event().wait(60)


def test_a_log_is_closed_by_the_death_of_its_process(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(path, ready))
    process.start()
    assert ready.wait(30)
    assert is_open(path)
    process.kill()
    process.join(30)
    assert not is_open(path)
    assert read_all(path) == [b"the first"]


def test_a_log_that_is_closed_is_closed_though_a_forked_process_still_has_it(path: Path) -> None:
    log = LogWriter(path)
    context = multiprocessing.get_context("fork")
    ended = context.Event()
    process = context.Process(target=ended.wait, args=(60,))
    process.start()
    try:
        log.close()
        assert not is_open(path)
    finally:
        ended.set()
        process.join(30)


def test_an_empty_log_that_a_power_cut_left_is_not_open(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    assert is_open(path)  # just made: its writer is about to lock it
    os.utime(path, (time.time() - 60,) * 2)
    assert not is_open(path)
    log = LogWriter(path)
    assert is_open(path)
    log.close()


def test_no_log_is_no_open_log(path: Path) -> None:
    assert not is_open(path)
    assert LogReader(path).count() == 0


def test_frames_of_nothing_are_nothing() -> None:
    assert whole_frames(b"") == ([], 0)


@pytest.mark.parametrize(
    "payload",
    [b"", b"not json", b"\xff", b"null", b"5", b"{}", b"[]", b"[1, 2]", b"[1, 2, {}, 4]", b'[1, 1, "a"]', b"[1, 1, null]", b"[1, 1, [1]]",
     b'["1", 1, {}]', b"[null, 1, {}]", b"[true, 1, {}]", b"[NaN, 1, {}]", b"[Infinity, 1, {}]", b"[-1, 1, {}]", b"[1e12, 1, {}]",
     b"[" + b"9" * 400 + b", 1, {}]", b"[" + b"9" * 5000 + b", 1, {}]", b"[" * 100_000],
)  # fmt: skip
def test_a_payload_that_is_no_record_is_damaged_and_nothing_else(payload: bytes) -> None:
    with pytest.raises(RecordDamaged):
        decode(payload)


def _probe(path: Path, ready: Any, ended: Any) -> None:
    ready.set()
    while not ended.is_set():
        is_open(path)


def test_a_writer_opens_its_log_though_somebody_asks_all_the_time_whether_it_is_open(path: Path) -> None:
    LogWriter(path).close()
    context = multiprocessing.get_context("spawn")
    ready, ended = context.Event(), context.Event()
    process = context.Process(target=_probe, args=(path, ready, ended))
    process.start()
    assert ready.wait(30)
    try:
        for _ in range(1000):
            LogWriter(path).close()
    finally:
        ended.set()
        process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("payload", [b"", b"[]", b"[0,0,{]"])
def test_a_record_that_is_too_short_for_one_is_refused(path: Path, payload: bytes) -> None:
    log = LogWriter(path)
    with pytest.raises(RecordRefused, match="none has fewer than 8"):
        log.append(payload)
    log.close()
    assert path.read_bytes() == MAGIC
    path.write_bytes(MAGIC + frame(payload))
    assert LogReader(path).count() == 0
