"""`nvflare_patches/metric_log.py`: NVFlare's own executor and writer in a site's process, with the patch and without it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# NVFlare's backend subscribes to what NVFlare's writer logs, as in a site's job process; a recorder stands on the DataBus.
LOG = """
import json, logging, sys
from types import SimpleNamespace
from nvflare.apis.analytix import LogWriterName
from nvflare.apis.fl_context import FLContextManager
from nvflare.app_common.executors.client_api.in_process_backend import InProcessBackend
from nvflare.client.in_process.api import TOPIC_LOG_DATA, InProcessClientAPI
from nvflare.client.tracking import SummaryWriter, WandBWriter
from nvflare.fuel.data_event.data_bus import DataBus
from multisite import nvflare_patches
from multisite.nvflare_patches.metric_log import RECORDER

logging.disable()
nvflare_patches.apply(sys.argv[1])
recorded, events = [], []
def record(key, value, data_type, rest):
    if rest["writer"] == LogWriterName.WANDB:
        recorded.append([value, rest["global_step"]])
        return True
    return False
backend = InProcessBackend()
backend._engine = SimpleNamespace(new_context=FLContextManager(SimpleNamespace(), "site-1", "job", {}, {}).new_context)
backend._context = SimpleNamespace(executor=SimpleNamespace(fire_log_analytics=lambda fl_ctx, dxo: events.append(dxo.data["track_value"])))
DataBus().subscribe([TOPIC_LOG_DATA], backend._log_result_callback)
api = InProcessClientAPI({"site_name": "site-1"})
api.rank = "0"
DataBus().put_data(RECORDER + "site-1", record)
WandBWriter(SimpleNamespace(api=api)).log({"loss": 0.5, "note": "warm-up"}, 3)
SummaryWriter(SimpleNamespace(api=api)).add_scalar("loss", 0.25, 3)
DataBus().put_data(RECORDER + "site-1", None)
WandBWriter(SimpleNamespace(api=api)).log({"loss": 0.125}, 4)
print(json.dumps([recorded, events]))
"""


@pytest.mark.parametrize(
    ("setting", "recorded"), [("metric_log", [[{"loss": 0.5, "note": "warm-up"}, 3]]), ("none", [])], ids=["with", "without"]
)
def test_a_call_with_a_text_in_it_reaches_the_recorder_whole(setting: str, recorded: list[object]) -> None:
    """Without the patch NVFlare drops the call with its number: this test says when the patch is needed no more."""
    done = subprocess.run([sys.executable, "-c", LOG, setting], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [recorded, [0.25, {"loss": 0.125}]]
