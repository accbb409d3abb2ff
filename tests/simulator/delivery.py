"""A site's spool, delivered to the stand-in backend by the real writer."""

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
from tests.wandb_backend.client import BackendState, rows
from tests.wandb_backend.keys import KnownKeys
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
        save_json(self.job.settings_file, {**settings, "owner": SERVER, "job": "job-1", "attempt": 1})
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
        writer = self.delivery._writers.get("job-1")
        return writer.process if writer else None

    def report(self) -> dict[str, Any]:
        return self.job.report()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    backend = WandbBackend(("127.0.0.1", 0), KnownKeys({KEY: "hospital"}))
    backend.start()
    monkeypatch.setenv("WANDB_BASE_URL", backend.url)
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
    site = Site(tmp_path, backend)
    yield site
    site.delivery.stop()
    backend.stop()
