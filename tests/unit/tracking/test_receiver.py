"""The receiver at a job's end: which file becomes the model in the spool, and what a site's report can do to the server's own row."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from multisite.tracking.receiver import ABORTED, NAME_CHARACTERS, SITE_NAMES, WandbReceiver, _numbers
from multisite.tracking.spool import ROOT_VARIABLE, Job, Spool

MODEL = "global_model.safetensors"


class Run:
    """A job's run on a server, with the receiver's events in their order."""

    def __init__(self, folder: Path, artifact: str = MODEL) -> None:
        self.run = folder / "job-1"
        (self.run / "models").mkdir(parents=True)
        self.secret = folder / "startup" / "server.key"
        self.secret.parent.mkdir()
        self.secret.write_text("a key", encoding="utf-8")
        self.job: Job = Spool(folder / "spool").job("job-1")
        workspace = SimpleNamespace(get_root_dir=lambda: str(folder), get_run_dir=lambda job: str(folder / job))
        engine = SimpleNamespace(get_workspace=lambda: workspace, get_clients=lambda: [])
        self.abort = Signal()
        self.fatal = self.aborted = False
        self.context: Any = SimpleNamespace(
            get_engine=lambda: engine,
            get_job_id=lambda: "job-1",
            get_prop=lambda name: {FLContextKey.FATAL_SYSTEM_ERROR: self.fatal, ABORTED: self.aborted}.get(name),
            get_run_abort_signal=lambda: self.abort,
        )
        self.receiver = WandbReceiver({"project": "p"}, wait_seconds=0, artifact=artifact)

    def end(self) -> None:
        context: FLContext = self.context
        self.receiver.handle_event(EventType.START_RUN, context)
        self.receiver.handle_event(EventType.END_RUN, context)

    @property
    def model(self) -> Path:
        return self.run / "models" / MODEL


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return Run(tmp_path)


def test_the_final_model_of_the_run_is_kept_for_the_writer(run: Run) -> None:
    run.model.write_bytes(b"weights")
    run.end()
    assert run.job.model_file.read_bytes() == b"weights"
    assert run.job.settings["artifact"] is True


def test_how_the_job_ended_is_kept_for_the_writer(run: Run) -> None:
    """NVFlare aborts a job that failed: `ServerRunner.handle_event`."""
    run.end()
    assert run.job.exit_code() == 0
    run.abort.trigger(True)
    run.end()
    assert run.job.settings["ended"] == "aborted"
    run.fatal = run.aborted = True  # a controller that fails because the job was aborted
    run.end()
    assert run.job.settings["ended"] == "aborted"
    run.aborted = False
    run.end()
    assert run.job.settings["ended"] == "failed"


def test_a_job_whose_process_died_has_left_no_word_and_counts_as_failed(run: Run) -> None:
    run.receiver.handle_event(EventType.START_RUN, run.context)
    assert run.job.exit_code() == 1


def test_a_model_that_is_not_there_is_said_and_the_job_ends_well(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.end()
    assert not run.job.model_file.exists()
    assert f"the final model is not uploaded: models/{MODEL}: No such file or directory" in caplog.text
    assert (run.run / "metrics" / "tracking.json").exists()


def link_to_the_key(run: Run) -> None:
    run.model.symlink_to(run.secret)


def link_to_a_folder_elsewhere(run: Run) -> None:
    (run.run / "models").rmdir()
    (run.secret.parent / MODEL).write_text("a key", encoding="utf-8")
    (run.run / "models").symlink_to(run.secret.parent)


def pipe(run: Run) -> None:
    os.mkfifo(run.model)


def folder(run: Run) -> None:
    run.model.mkdir()


@pytest.mark.parametrize("make", [link_to_the_key, link_to_a_folder_elsewhere, pipe, folder])
def test_what_is_no_file_of_the_models_folder_is_not_copied(run: Run, caplog: pytest.LogCaptureFixture, make: Any) -> None:
    make(run)
    run.end()
    assert not run.job.model_file.exists()
    assert "the final model is not uploaded" in caplog.text


def test_a_link_within_the_models_folder_is_followed(run: Run) -> None:
    (run.run / "models" / "round_3").write_bytes(b"weights")
    run.model.symlink_to("round_3")
    run.end()
    assert run.job.model_file.read_bytes() == b"weights"


def test_one_sites_report_can_not_make_the_rounds_row_too_long() -> None:
    assert _numbers({"accuracy": 0.5, "steps": 3}) == {"accuracy": 0.5, "steps": 3.0}
    assert len(_numbers({f"name{n}": n for n in range(100_000)})) == SITE_NAMES
    assert _numbers({"x" * (NAME_CHARACTERS + 1): 1, "a\x1b[2J": 1, 5: 1, "text": "1", "huge": 10**400}) == {}
    assert _numbers(["accuracy"]) == {}
