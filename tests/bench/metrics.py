"""What metrics cost, beside NVFlare's own path, arms interleaved in one run:  python -m tests.bench.metrics [--quick]

log        one `WandBWriter.log` call: ours (on the disk when it returns) and stock (handed to a thread when it returns)
training   a round of local training with a metric every step, against one without
transport  a site's spool -> the server's disk over NVFlare's cells on loopback: rate, and latency at 1,000 values/s
memory     PSS of the W&B writer and its wandb-core with 2 and with 8 sites (against the tests' stand-in backend)
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "bench0key0" * 4


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def spread(values: list[float], unit: str, digits: int = 1) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f}) {unit}"


def bench_log(folder: Path, repeats: int, calls: int) -> None:
    """Calls of the unchanged writer, arm by arm."""
    from nvflare.client.in_process.api import TOPIC_LOG_DATA, InProcessClientAPI
    from nvflare.client.tracking import WandBWriter
    from nvflare.fuel.data_event.data_bus import DataBus

    from multisite import nvflare_patches
    from multisite.tracking.recorder import RECORDER, MetricsRecorder
    from multisite.tracking.spool import Spool

    nvflare_patches.apply("metric_log")
    api = InProcessClientAPI({"SITE_NAME": "site-1"})
    api.rank = "0"
    api.meta = {"site_name": "site-1", "SITE_NAME": "site-1"}
    context = type("Context", (), {"api": api})()
    writer = WandBWriter(context)
    DataBus().subscribe([TOPIC_LOG_DATA], lambda topic, datum, bus: None)
    recorder = MetricsRecorder()
    recorder._origin = Spool(folder).job("job").origin("site-1")
    recorder._open()
    assert recorder._log is not None

    def arm() -> list[float]:
        costs = []
        for number in range(calls):
            before = time.perf_counter()
            writer.log({"loss": 0.5 + number}, number)
            costs.append((time.perf_counter() - before) * 1e6)
        return costs

    ours: list[list[float]] = []
    stock: list[list[float]] = []
    for _ in range(repeats):
        DataBus().put_data(RECORDER + "site-1", recorder._take)
        ours.append(arm())
        DataBus().put_data(RECORDER + "site-1", None)
        stock.append(arm())
    assert recorder._log.rows == repeats * calls, "ours did not log all that it was timed for"
    for name, arms in (("ours", ours), ("stock", stock)):
        print(f"log, {name}: median {spread([statistics.median(costs) for costs in arms], 'us')}, "
              f"p99 {spread([percentile(costs, 0.99) for costs in arms], 'us')}, {repeats} x {calls} calls")  # fmt: skip


def bench_training(folder: Path, repeats: int) -> None:
    """A round of the compact network on 2,000 images; the metric is the loss of every step."""
    import torch

    from multisite.cifar10 import training
    from multisite.cifar10.model import build
    from multisite.cifar10.training import Recipe, train_round
    from multisite.tracking.records import LogWriter

    training.REPORT_STEPS = 1  # the job's own script logs every 20 steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2000, 32, 32, 3) if _channels_last() else (2000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (2000,))
    recipe = Recipe(rounds=4, local_epochs=1, batch=64, lr=0.1)
    log = LogWriter(folder / "training.log")

    def arm(on_step: Callable[[int, float], None] | None) -> float:
        model = build("compact", 0)
        started = time.perf_counter()
        train_round(model, images, labels, recipe, 0, 0, torch.device("cpu"), on_step)
        return time.perf_counter() - started

    def timed(step: int, loss: float) -> None:
        before = time.perf_counter()
        log.log({"train/loss": loss}, step)
        costs.append((time.perf_counter() - before) * 1e6)

    arm(None)
    costs: list[float] = []
    ratios = []
    for _ in range(repeats):
        plain = arm(lambda step, loss: None)
        ratios.append((arm(timed) / plain - 1) * 100)
    print(f"training, slower with a metric every step: {spread(ratios, '%', 2)}, {repeats} pairs")
    print(f"log, ours, between two training steps: median {statistics.median(costs):.1f} us, p99 {percentile(costs, 0.99):.1f} us, "
          f"{sum(costs) / len(costs):.1f} us a step of {plain / (len(costs) / repeats) * 1000:.1f} ms")  # fmt: skip


def _channels_last() -> bool:
    from multisite.cifar10 import shards

    return "32, 32, 3" in (shards.__doc__ or "")


def bench_transport(folder: Path, values: int) -> None:
    """Two cells on loopback, in one process: what the wire and both disks cost."""
    from nvflare.fuel.f3.cellnet.core_cell import CoreCell
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
    from nvflare.fuel.f3.message import Message
    from nvflare.private.defs import new_cell_message

    from multisite.tracking.agent import ANSWER_SECONDS, BUSY_SECONDS, CHANNEL, TOPIC
    from multisite.tracking.files import save_json
    from multisite.tracking.forwarder import ROUTE, Forwarder
    from multisite.tracking.frames import whole_frames
    from multisite.tracking.intake import Intake
    from multisite.tracking.log_reader import LogReader
    from multisite.tracking.records import LogWriter, decode
    from multisite.tracking.spool import Spool

    url = "tcp://127.0.0.1:18902"
    server = CoreCell("server", url, False, {})
    server.start()
    site = CoreCell("site-1", url, False, {})
    site.start()
    intake, delays = Intake(Spool(folder / "server"), lambda job: True), []

    def take(request: Message) -> Message:
        reply = new_cell_message({}, intake.take("site-1", request.payload))
        reply.set_header(MessageHeaderKey.RETURN_CODE, ReturnCode.OK)
        now = time.time()
        if request.payload["job"] == "paced":
            delays.extend(now - decode(payload).time for payload in whole_frames(request.payload["data"])[0])
        return reply

    server.register_request_cb(channel=CHANNEL, topic=TOPIC, cb=take)

    def send(message: dict[str, Any]) -> dict[str, Any] | None:
        answer = site.send_request(CHANNEL, TOPIC, "server", new_cell_message({}, message), timeout=ANSWER_SECONDS)
        return answer.payload if isinstance(answer.payload, dict) else None

    spool = Spool(folder / "site")
    forwarder = Forwarder(spool, send)

    def log_of(job: str) -> LogWriter:
        save_json(spool.job(job).origin("site-1").folder / ROUTE, {"forwards": True})
        return LogWriter(spool.job(job).origin("site-1").log)

    log = log_of("bulk")
    forwarder.tick()
    for number in range(values):
        log.log({"loss": 0.5, "id": number}, number)
    copy = intake.spool.job("bulk").origin("site-1").log
    started = time.perf_counter()
    while copy.stat().st_size < log.size:
        forwarder.tick()
        assert time.perf_counter() - started < 120
    seconds = time.perf_counter() - started
    assert LogReader(copy).count() == values
    print(
        f"transport, site's disk -> server's disk: {values / seconds:,.0f} values/s ({values:,} values of {log.size / values:.0f} bytes)"
    )

    log, stop = log_of("paced"), threading.Event()
    threading.Thread(target=_pace, args=(log, stop, 5.0), daemon=True).start()
    while not stop.is_set():
        time.sleep(BUSY_SECONDS)
        forwarder.tick()
    milliseconds = [delay * 1000 for delay in delays]
    print(f"transport, latency from log() to the server's disk at 1,000 values/s: p50 {statistics.median(milliseconds):.0f} ms, "
          f"p99 {percentile(milliseconds, 0.99):.0f} ms")  # fmt: skip
    server.stop()
    site.stop()


def _pace(log: Any, stop: threading.Event, seconds: float) -> None:
    started, number = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        log.log({"loss": 0.5}, number)
        number += 1
        time.sleep(max(0.0, started + number / 1000 - time.perf_counter()))
    stop.set()


def pss_mib(pid: int) -> float:
    """Proportional set size of a process and its children."""
    total = 0.0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if int(folder.name) == pid or parent == pid:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    total += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
            except (OSError, StopIteration):
                continue
    return total


def bench_memory(folder: Path, sites: int, rows: int) -> float:
    """The writer's and wandb-core's memory, while it delivers `rows` rows of each site."""
    from multisite.tracking.files import save_json
    from multisite.tracking.records import LogWriter
    from multisite.tracking.spool import Spool
    from tests.wandb_backend.keys import KnownKeys
    from tests.wandb_backend.server import WandbBackend

    backend = WandbBackend(("127.0.0.1", 0), KnownKeys({KEY: "bench"}))
    backend.start()
    (folder / "key").write_text(KEY)
    job = Spool(folder / "spool").job("job")
    save_json(job.settings_file, {"wandb": {"project": "bench"}, "axes": {}, "owner": "site-1"})
    logs = [LogWriter(job.origin(f"site-{number}").log) for number in range(1, sites + 1)]
    environment = {**os.environ, "WANDB_BASE_URL": backend.url, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    writer = subprocess.Popen(
        [sys.executable, "-m", "multisite.tracking.writer", str(job.folder), str(folder / "key")], env=environment
    )
    peak, deadline = 0.0, time.monotonic() + 180
    for number in range(rows):
        for log in logs:
            log.log({"loss": 0.5}, number)
    while sum(job.delivered().values()) < sites * rows:
        assert time.monotonic() < deadline, "the backend does not have every row"
        peak = max(peak, pss_mib(writer.pid))
        time.sleep(0.2)
    for log in logs:
        log.close()
    writer.wait(60)
    backend.stop()
    return peak


def main() -> None:
    """Runs every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    repeats = 3 if quick else 7
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_log(folder, repeats, 2_000 if quick else 10_000)
        bench_training(folder, repeats)
        bench_transport(folder, 50_000 if quick else 300_000)
        peaks = {}
        for sites in (2, 8):
            (folder / str(sites)).mkdir()
            peaks[sites] = bench_memory(folder / str(sites), sites, 2_000 if quick else 10_000)
        print(f"memory, writer and wandb-core: {peaks[2]:.0f} MiB with 2 sites, {peaks[8]:.0f} MiB with 8: "
              f"{(peaks[8] - peaks[2]) / 6:.1f} MiB a further site")  # fmt: skip
    os._exit(0)  # NVFlare's cells leave threads behind


if __name__ == "__main__":
    main()
