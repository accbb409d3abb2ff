"""One process delivers from a spool and one writes a job: their locks end with them, and others can ask."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from multisite.tracking import sync
from multisite.tracking.delivery import Delivery
from multisite.tracking.frames import MAGIC
from multisite.tracking.locks import is_locked
from multisite.tracking.spool import Spool
from multisite.tracking.writer import EXIT_AGAIN, EXIT_NO_KEY
from tests.unit.spools import log, settings


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.mark.parametrize("lock", [None, b"", MAGIC])  # an agent of an older release left a log without records there
def test_one_process_delivers_from_a_spool_and_the_others_see_it(spool: Spool, lock: bytes | None) -> None:
    if lock is not None:
        spool.root.mkdir()
        spool.agent_lock.write_bytes(lock)
    assert not is_locked(spool.agent_lock)
    first = Delivery(spool)
    assert is_locked(spool.agent_lock)
    with pytest.raises(Timeout):
        Delivery(spool)
    stopper = threading.Thread(target=first.stop)  # NVFlare's events come in any thread
    stopper.start()
    stopper.join()
    assert not is_locked(spool.agent_lock)
    Delivery(spool).stop()


def _deliver(spool: Spool, ready: Any) -> None:
    delivery = Delivery(spool)
    ready.set()
    multiprocessing.Event().wait(60)
    delivery.stop()


def test_the_death_of_the_process_that_delivers_leaves_the_spool_to_the_next(spool: Spool) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_deliver, args=(spool, ready))
    process.start()
    assert ready.wait(30)
    assert is_locked(spool.agent_lock)
    process.kill()
    process.join(30)
    Delivery(spool).stop()


def test_a_delivery_starts_though_somebody_asks_all_the_time_whether_one_runs(spool: Spool) -> None:
    Delivery(spool).stop()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            is_locked(spool.agent_lock)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(200):
            Delivery(spool).stop()
    finally:
        ended.set()
        asker.join()


def test_beside_an_agent_sync_asks_it_and_delivers_nothing_itself(spool: Spool) -> None:
    agent = Delivery(spool)
    before = spool.sync_requested()
    assert sync.sync(spool, 1) == []
    assert spool.sync_requested() > before
    agent.stop()


def test_one_process_writes_a_job(spool: Spool, tmp_path: Path) -> None:
    settings(spool)
    log(spool, "site-1", 1).close()
    command = [sys.executable, "-m", "multisite.tracking.writer", str(spool.job("job-1").folder), str(tmp_path / "no-key")]
    with FileLock(spool.job("job-1").folder / "writer.lock"):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr) == (EXIT_AGAIN, "W&B: another process delivers job job-1\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == EXIT_NO_KEY
