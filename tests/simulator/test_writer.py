"""The W&B writer with the real client against the stand-in backend: killed, refused, continued, late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multisite.tracking.delivery import Delivery
from multisite.tracking.files import save_json
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER, Job, Spool
from tests.wandb_backend.client import BackendState, rows, set_faults
from tests.wandb_backend.keys import KeyRing
from tests.wandb_backend.server import WandbBackend

KEY = "writer0key" * 4


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


class Site:
    """A spool that is delivered from, a job in it, and the backend."""

    def __init__(self, folder: Path, backend: WandbBackend) -> None:
        self.backend = backend
        self.key = folder / "key"
        self.key.write_text(KEY, encoding="utf-8")
        self.spool = Spool(folder / "spool")
        self.job: Job = self.spool.job("job-1")
        settings = {"wandb": {"project": "p", "name": "n", "config": {"lr": 0.1}, "tags": ["t"]}, "axes": {"val/*": "round"}}
        save_json(self.job.settings_file, {**settings, "owner": SERVER})
        self.logs = {name: LogWriter(self.job.origin(name).log) for name in (SERVER, "site-1")}
        self.count = 0
        self.delivery = Delivery(self.spool, self.key)
        self.delivery.start()

    def log(self, count: int) -> None:
        for _ in range(count):
            self.logs["site-1"].log({"value": self.count}, self.count % 10)
            self.count += 1

    def end(self) -> None:
        for log in self.logs.values():
            log.close()

    def state(self) -> BackendState:
        return BackendState.fetch(self.backend.url)

    def values(self) -> list[Any]:
        return [row["value"] for run in self.state().runs() for row in rows(run) if "value" in row]

    def writer(self) -> Any:
        writing = self.delivery._writings.get("job-1")
        return writing.process if writing else None

    def report(self) -> dict[str, Any]:
        return self.job.report()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    backend = WandbBackend(("127.0.0.1", 0), KeyRing({KEY: "hospital"}))
    backend.start()
    monkeypatch.setenv("WANDB_BASE_URL", backend.url)
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "0.5")
    site = Site(tmp_path, backend)
    yield site
    site.delivery.stop()
    backend.stop()


def test_a_writer_killed_again_and_again_repeats_nothing(site: Site) -> None:
    for _ in range(3):
        site.log(300)
        before = len(site.values())
        wait_for(lambda: len(site.values()) > before)  # noqa: B023
        site.writer().kill()
        site.writer().wait()
    site.log(100)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0)
    assert site.values() == list(range(1000))
    (run,) = site.state().runs()
    assert run["complete"]
    assert not run["conflicts"]


def test_a_run_is_made_as_a_user_of_w_and_b_expects_it(site: Site) -> None:
    site.logs[SERVER].log({"val/accuracy": 0.5, "round": 3}, None)
    site.log(5)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    state = site.state()
    run, server = state.run("site-1-n"), state.run("server-n")
    assert run["group"] == server["group"] == "n-job-1"
    assert run["tags"] == ["t"]
    assert run["config"]["lr"]["value"] == 0.1
    assert run["config"]["site"]["value"] == "site-1"
    assert run["summary"]["records/delivered"] == 5
    assert [(row["value"], row["step"]) for row in rows(run)] == [(n, n) for n in range(5)]
    assert "step" not in rows(server)[0]
    assert rows(server)[0]["round"] == 3
    assert not state.unknown_ops


def test_a_key_that_is_refused_is_said_and_a_good_one_is_found_without_a_restart(site: Site) -> None:
    site.key.write_text("wrong0key0" * 4, encoding="utf-8")
    site.log(20)
    wait_for(lambda: site.report()["state"] == "refused")
    assert "refused the API key" in site.report()["reason"]
    assert KEY not in site.report()["reason"]
    site.key.write_text(KEY, encoding="utf-8")
    site.spool.sync_file.touch()
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert site.values() == list(range(20))


def test_a_refusal_in_the_middle_is_fatal_for_the_client_and_not_for_the_rows(site: Site) -> None:
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    set_faults(site.backend.url, file_stream=403, graphql=403)
    site.log(50)
    wait_for(lambda: site.report()["state"] in ("refused", "stalled"), 90)
    set_faults(site.backend.url)
    site.end()
    wait_for(lambda: site.report()["state"] == "done", 90)
    assert site.values() == list(range(100))


def test_rows_that_come_after_the_job_is_done_are_delivered_too(site: Site) -> None:
    site.log(10)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    late = LogWriter(site.job.origin("site-2").log)
    late.log({"late": 1}, None)
    late.close()
    wait_for(lambda: site.report()["pending"] == 0 and "site-2" in site.report()["sites"])
    assert [row["late"] for row in rows(site.state().run("site-2-n"))] == [1]


def test_a_key_that_expired_before_the_jobs_end_is_the_reason_that_is_said(site: Site) -> None:
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    writer = site.writer()
    set_faults(site.backend.url, file_stream=401, graphql=401)
    site.log(50)
    site.end()
    wait_for(lambda: writer.poll() is not None, 90)
    assert site.report()["state"] == "refused"
    assert "refused the API key" in site.report()["reason"]
