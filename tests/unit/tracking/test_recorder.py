"""The recorder on a site: the unchanged `WandBWriter.log` puts a metric on the disk, whatever the disk says to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData, AnalyticsDataType, LogWriterName
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.client.in_process.api import TOPIC_LOG_DATA, InProcessClientAPI
from nvflare.client.tracking import SummaryWriter, WandBWriter
from nvflare.fuel.data_event.data_bus import DataBus

from multisite import nvflare_patches
from multisite.job.progress import SITE_ERROR
from multisite.nvflare_patches import metric_log
from multisite.tracking import records as records_module
from multisite.tracking.arguments import job_settings
from multisite.tracking.files import load_json, save_json
from multisite.tracking.frames import MAX_RECORD_BYTES
from multisite.tracking.log_reader import LogReader
from multisite.tracking.recorder import RECORDER, MetricsRecorder
from multisite.tracking.records import LogWriter, RecordRefused, decode
from multisite.tracking.spool import Job, Spool


@pytest.fixture
def api() -> InProcessClientAPI:
    api = InProcessClientAPI({"site_name": "site-1"})
    api.rank = "0"
    return api


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsRecorder]:
    monkeypatch.setattr(InProcessClientAPI, "log", InProcessClientAPI.log)  # undoes the patch after the test
    nvflare_patches.apply("metric_log")
    recorder = MetricsRecorder()
    recorder._site = "site-1"
    recorder._origin = Spool(tmp_path).job("job-1").origin("site-1")
    recorder._log = LogWriter(recorder._origin.log)
    recorder._reserve_refused()
    DataBus().put_data(RECORDER + "site-1", recorder._take)
    yield recorder
    DataBus().put_data(RECORDER + "site-1", None)


def logged(recorder: MetricsRecorder) -> list[tuple[dict[str, Any], int | None]]:
    assert recorder._origin is not None
    records = [decode(payload) for payload in LogReader(recorder._origin.log).read(1 << 20)]
    return [(dict(record.metrics), record.step) for record in records]


def context(api: InProcessClientAPI) -> Any:
    return SimpleNamespace(api=api)


def test_a_metric_is_on_the_disk_when_log_returns(api: InProcessClientAPI, recorder: MetricsRecorder) -> None:
    writer = WandBWriter(context(api))
    writer.log({"loss": 0.5}, 7)
    assert logged(recorder) == [({"loss": 0.5}, 7)]
    writer.log({"accuracy": 0.9})
    assert logged(recorder)[1:] == [({"accuracy": 0.9}, None)]


def test_what_another_writer_logs_goes_on_to_nvflares_events(api: InProcessClientAPI, recorder: MetricsRecorder) -> None:
    published: list[Any] = []
    bus = DataBus()
    bus.subscribe([TOPIC_LOG_DATA], lambda topic, datum, bus: published.append(datum))
    try:
        SummaryWriter(context(api)).add_scalar("loss", 0.5, 1)
        WandBWriter(context(api)).log({"loss": 0.5}, 1)
    finally:
        bus.unsubscribe(TOPIC_LOG_DATA)
    assert logged(recorder) == [({"loss": 0.5}, 1)]
    assert [datum["writer"] for datum in published] == [
        LogWriterName.TORCH_TB
    ]  # NVFlare waits for the threads that it publishes in


def test_the_recorder_is_where_the_patch_looks_for_it() -> None:
    assert RECORDER == metric_log.RECORDER


def test_after_the_job_nothing_is_recorded(api: InProcessClientAPI, recorder: MetricsRecorder) -> None:
    assert recorder._origin is not None
    records = recorder._origin.log
    recorder.handle_event(EventType.END_RUN, FLContext())
    assert DataBus().get_data(RECORDER + "site-1") is None
    WandBWriter(context(api)).log({"loss": 0.5}, 1)
    assert LogReader(records).read(1 << 20) == []


@pytest.mark.parametrize(
    ("kind", "key", "value", "metrics"),
    [
        (AnalyticsDataType.METRIC, "loss", 1.0, {"loss": 1.0}),
        (AnalyticsDataType.SCALAR, "loss", 1.0, {"loss": 1.0}),
        (AnalyticsDataType.SCALARS, "loss", {"train": 1.0, "val": 2.0}, {"loss/train": 1.0, "loss/val": 2.0}),
        (AnalyticsDataType.METRICS, "metrics", {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    ],
)
def test_every_kind_of_number_that_an_event_carries_is_a_record(
    recorder: MetricsRecorder, kind: AnalyticsDataType, key: str, value: Any, metrics: dict[str, Any]
) -> None:
    assert recorder._take(key, value, kind, {"global_step": 3}, from_event=True)
    assert logged(recorder) == [(metrics, 3)]


def fire(recorder: MetricsRecorder, key: str, value: Any, kind: AnalyticsDataType, sender: LogWriterName) -> None:
    """NVFlare's event of a metric, as its executor makes it."""
    fl_ctx = FLContext()
    dxo = AnalyticsData(key, value, kind, sender, global_step=3).to_dxo()
    fl_ctx.set_prop(FLContextKey.EVENT_DATA, dxo.to_shareable(), private=True, sticky=False)
    recorder.handle_event(ANALYTIC_EVENT_TYPE, fl_ctx)


def test_add_scalars_keeps_its_tag(recorder: MetricsRecorder) -> None:
    for tag, value in (("a", 1.0), ("b", 10.0)):
        fire(recorder, tag, {"train": value}, AnalyticsDataType.SCALARS, LogWriterName.TORCH_TB)
    fire(recorder, "loss", 0.5, AnalyticsDataType.METRIC, LogWriterName.MLFLOW)
    assert logged(recorder) == [({"a/train": 1.0}, 3), ({"b/train": 10.0}, 3), ({"loss": 0.5}, 3)]


def test_a_text_of_another_writer_is_refused_by_its_name_and_counted_and_this_projects_own_is_not(
    recorder: MetricsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    fire(recorder, SITE_ERROR, "disk full", AnalyticsDataType.TEXT, LogWriterName.MLFLOW)
    assert recorder._refused == 0
    for _ in range(2):
        fire(recorder, "note", "hello", AnalyticsDataType.TEXT, LogWriterName.MLFLOW)
    assert recorder._refused == 2
    assert [record.getMessage() for record in caplog.records if "'note' is refused on site-1: TEXT" in record.getMessage()]


def test_the_count_of_refused_metrics_goes_on_after_a_restart_of_the_job(recorder: MetricsRecorder) -> None:
    recorder._count_refused(5)
    again = MetricsRecorder()
    again._site, again._origin = recorder._site, recorder._origin
    again._reserve_refused()
    again._count_refused(1)
    assert recorder._origin is not None
    assert load_json(recorder._origin.refused) == {"count": 6}


def test_a_refused_value_is_named_once_and_counted_and_the_rest_of_its_call_is_kept(
    api: InProcessClientAPI, recorder: MetricsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        WandBWriter(context(api)).log({"loss": 0.5, "image": object()}, 1)
    assert logged(recorder) == [({"loss": 0.5}, 1)] * 3
    assert recorder._refused == 3
    assert [record.getMessage() for record in caplog.records] == [
        "'image' is refused on site-1: an object of type object is no metric. The call's other metrics are kept; training goes on"
    ]


def test_a_call_that_is_too_long_loses_its_longest_metrics_alone(
    api: InProcessClientAPI, recorder: MetricsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    WandBWriter(context(api)).log({"long": "x" * MAX_RECORD_BYTES, "loss": 0.5}, 1)
    assert logged(recorder) == [({"loss": 0.5}, 1)]
    assert f"at most {MAX_RECORD_BYTES} are allowed" in caplog.text
    assert "free space" not in caplog.text


def test_a_call_of_very_many_metrics_that_is_too_long_is_shortened_in_a_few_tries(
    api: InProcessClientAPI, recorder: MetricsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    real = LogWriter.log
    monkeypatch.setattr(LogWriter, "log", lambda self, metrics, step: tries.append(len(metrics)) or real(self, metrics, step))
    monkeypatch.setattr(records_module, "MAX_RECORD_BYTES", 20_000)
    WandBWriter(context(api)).log({f"metric {number:04}": 0.5 for number in range(3000)}, 1)
    assert len(tries) <= 3
    ((metrics, _),) = logged(recorder)
    assert len(metrics) == tries[-1] > 1000
    assert recorder._refused == 3000 - len(metrics)


@pytest.mark.parametrize("call", [None, 5, [1.0]], ids=str)
def test_a_call_that_has_no_names_is_refused_and_raises_nothing(
    api: InProcessClientAPI, recorder: MetricsRecorder, call: Any
) -> None:
    WandBWriter(context(api)).log(call, 1)
    assert logged(recorder) == []
    assert recorder._refused == 1


class Raises:
    """A value whose text is an error."""

    def __str__(self) -> str:
        raise KeyError("k")


def test_an_error_of_a_step_or_of_scalars_never_reaches_the_training(recorder: MetricsRecorder) -> None:
    wandb = {"writer": LogWriterName.WANDB}
    assert recorder._take("loss", 0.5, AnalyticsDataType.METRIC, {**wandb, "global_step": Raises()})
    assert recorder._take("loss", 0.5, AnalyticsDataType.SCALARS, wandb)
    assert logged(recorder) == []
    assert recorder._refused == 2


def test_text_is_no_metric(recorder: MetricsRecorder) -> None:
    assert not recorder._take("error", "out of memory", AnalyticsDataType.TEXT, {"writer": LogWriterName.WANDB})


def test_a_full_disk_raises_nothing_and_is_counted_and_said_once(
    api: InProcessClientAPI, recorder: MetricsRecorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = WandBWriter(context(api))
    writer.log({"before": 1})

    def full(self: LogWriter, data: bytes) -> None:
        raise RecordRefused("records.log: No space left on device")

    real = LogWriter._write
    monkeypatch.setattr(LogWriter, "_write", full)
    for _ in range(5):
        writer.log({"lost": 1})
    monkeypatch.setattr(LogWriter, "_write", real)
    writer.log({"after": 1})
    assert logged(recorder) == [({"before": 1}, None), ({"after": 1}, None)]
    assert recorder._origin is not None
    assert load_json(recorder._origin.refused) == {"count": 5}
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "No space left on device" in caplog.text
    assert "Next: free space" in caplog.text


def test_a_log_that_opens_late_or_has_closed_raises_nothing_in_the_training_script(
    api: InProcessClientAPI, recorder: MetricsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = WandBWriter(context(api))
    assert recorder._log is not None
    recorder._log.close()
    writer.log({"after the end": 1})
    recorder._log = None
    recorder._opened = float("-inf")

    def full(self: LogWriter, data: bytes) -> None:
        raise RecordRefused("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "_write", full)
        writer.log({"lost": 1})
    assert recorder._refused == 2
    assert logged(recorder) == []


def test_the_count_of_refused_metrics_needs_no_new_space(recorder: MetricsRecorder) -> None:
    assert recorder._origin is not None
    size = recorder._origin.refused.stat().st_size
    for _ in range(2000):
        recorder._count_refused(1)
    assert recorder._origin.refused.stat().st_size == size
    assert json.loads(recorder._origin.refused.read_text(encoding="utf-8")) == {"count": 2000}


def test_a_metric_that_is_no_json_is_refused_and_training_goes_on(api: InProcessClientAPI, recorder: MetricsRecorder) -> None:
    WandBWriter(context(api)).log({"loop": (loop := {}) or loop.update(loop=loop) or loop})  # type: ignore[dict-item,func-returns-value]
    assert logged(recorder) == []
    assert recorder._refused == 1


@pytest.mark.parametrize(
    ("events", "requested", "ended"),
    [
        ([], False, "completed"),
        ([EventType.ABORT_TASK], True, "aborted"),
        ([EventType.ABORT_TASK], False, "completed"),  # of a site that is late: the job has ended without it
        ([EventType.FATAL_SYSTEM_ERROR, EventType.ABORT_TASK], True, "failed"),
    ],
)
def test_a_site_that_delivers_itself_notes_how_its_job_ended(
    recorder: MetricsRecorder, events: list[str], requested: bool, ended: str
) -> None:
    """The events are NVFlare's: `ClientRunner.end_run_events_sequence`."""
    assert recorder._origin is not None
    recorder.wandb_args = {}
    job = Job(recorder._origin.folder.parent)
    save_json(job.settings_file, job_settings("job-1", "site-1", {}, {}))
    context: Any = SimpleNamespace(get_prop={FLContextKey.RUN_ABORT_REQUESTED: requested}.get)
    for event in [*events, EventType.END_RUN]:
        recorder.handle_event(event, context)
    assert job.settings["ended"] == ended
