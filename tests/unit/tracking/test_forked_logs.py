"""Processes forked from one that logs (data loaders, say): none hangs, none keeps the log open, and no record is lost by them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multisite.tracking.log_reader import LogReader
from multisite.tracking.records import LogWriter, RecordRefused, decode, is_open

FORK = multiprocessing.get_context("fork")
SECONDS = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.log"


def in_child(work: Callable[[], Any]) -> None:
    """Runs `work` in a forked process, and waits for it."""
    child = FORK.Process(target=work)
    child.start()
    child.join(SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join(SECONDS)
    assert child.exitcode == 0


def values(path: Path) -> list[Any]:
    return [decode(payload).metrics["value"] for payload in LogReader(path).read(1 << 20)]


def test_a_child_that_is_forked_while_a_thread_appends_logs_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(path)
    writing, go_on = threading.Event(), threading.Event()
    real, parent = os.write, os.getpid()

    def slow(descriptor: int, data: bytes) -> int:
        if os.getpid() == parent:
            writing.set()
            go_on.wait(SECONDS)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", slow)
    thread = threading.Thread(target=log.log, args=({"value": "parent"}, 1))
    thread.start()
    assert writing.wait(SECONDS)
    try:
        in_child(lambda: log.log({"value": "child"}, 1))
    finally:
        go_on.set()
        thread.join(SECONDS)
    log.close()
    assert values(path) == ["child", "parent"]


def test_a_child_that_outlives_its_parent_does_not_keep_the_log_open(path: Path) -> None:
    ready, ended = FORK.Event(), FORK.Event()

    parent = os.fork()
    if parent == 0:
        log = LogWriter(path)
        log.log({"value": 1}, 1)
        if os.fork() == 0:
            ready.set()
            ended.wait(SECONDS)
        os._exit(0)  # as if it was killed: nothing is closed
    try:
        assert os.waitpid(parent, 0) == (parent, 0)
        assert ready.wait(SECONDS)
        assert not is_open(path)
        LogWriter(path).close()
    finally:
        ended.set()


def test_children_and_their_children_append_and_close_and_the_log_stays_open_in_the_parent(path: Path) -> None:
    log = LogWriter(path)
    log.log({"value": "parent"}, 1)

    def grandchild() -> None:
        log.log({"value": "grandchild"}, 1)
        log.close()

    def child() -> None:
        log.log({"value": "child"}, 1)
        in_child(grandchild)
        log.log({"value": "child again"}, 2)
        log.close()
        with pytest.raises(RecordRefused, match="closed"):
            log.log({"value": "late"}, 3)

    in_child(child)
    assert is_open(path)
    log.log({"value": "parent again"}, 2)
    log.close()
    assert not is_open(path)
    assert values(path) == ["parent", "child", "grandchild", "child again", "parent again"]


def test_a_child_of_a_closed_log_has_it_closed_and_one_whose_log_is_gone_is_refused(path: Path) -> None:
    log, closed = LogWriter(path), LogWriter(path.with_name("closed.log"))
    closed.close()

    def refused() -> None:
        with pytest.raises(RecordRefused, match="closed"):
            closed.log({"value": 1}, 1)
        path.unlink()
        with pytest.raises(RecordRefused, match="No such file"):
            log.log({"value": 1}, 1)

    in_child(refused)
    assert not path.exists()
    log.close()


def test_many_children_append_at_the_same_time_and_every_record_is_there(path: Path) -> None:
    log = LogWriter(path)
    start = FORK.Barrier(4)

    def child(number: int) -> None:
        start.wait(SECONDS)
        for value in range(200):
            log.log({"value": number * 1000 + value}, value)

    children = [FORK.Process(target=child, args=(number,)) for number in range(3)]
    for process in children:
        process.start()
    start.wait(SECONDS)
    for value in range(200):
        log.log({"value": 3000 + value}, value)
    for process in children:
        process.join(SECONDS)
    log.close()
    assert sorted(values(path)) == [number * 1000 + value for number in range(4) for value in range(200)]


def short_write(monkeypatch: pytest.MonkeyPatch, then: Callable[[], Any]) -> None:
    """The next record that is written finds room for 10 bytes; then `then` happens, and there is none."""
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        monkeypatch.undo()
        written = real(descriptor, data[:10])
        then()
        monkeypatch.setattr(os, "write", none)
        return written

    def none(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)


def test_a_write_that_fails_takes_back_its_own_bytes_and_no_record_of_a_child(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(path)
    log.log({"value": 1}, 1)
    in_child(lambda: log.log({"value": 2}, 1))
    short_write(monkeypatch, lambda: None)
    with pytest.raises(RecordRefused, match="No space left on device"):
        log.log({"value": "lost"}, 2)
    monkeypatch.undo()
    log.log({"value": 3}, 3)
    log.close()
    assert values(path) == [1, 2, 3]


def test_a_write_that_fails_takes_nothing_back_when_a_child_has_appended_behind_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogWriter(path)
    log.log({"value": 1}, 1)
    short_write(monkeypatch, lambda: in_child(lambda: log.log({"value": 2}, 1)))
    with pytest.raises(RecordRefused, match="another process appended in the middle of a record"):
        log.log({"value": "lost"}, 2)
    monkeypatch.undo()
    log.close()
    reader = LogReader(path)
    assert [decode(payload).metrics["value"] for payload in reader.read(1 << 20) + reader.read(1 << 20)] == [1, 2]
    assert reader.offset == path.stat().st_size
