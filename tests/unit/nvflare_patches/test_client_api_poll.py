"""`nvflare_patches/client_api_poll.py`: NVFlare's own Client API in a site's process, with the patch and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import time
import nvflare.client as flare
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    time.sleep(0.3)
    flare.send(flare.FLModel(metrics={"accuracy": 0.5}))
"""
# NVFlare's executor hands the script one task; every wait of both is noted, by thread.
EXECUTE = """
import json, sys, threading, time
from types import SimpleNamespace
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext
from nvflare.app_common.executors.client_api.in_process_backend import InProcessBackend
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from multisite import nvflare_patches

setting, script = sys.argv[1:]
nvflare_patches.apply(setting)
waits, sleep = {}, time.sleep
def noted(seconds):
    waits.setdefault(threading.current_thread().name, []).append(seconds)
    sleep(seconds)
time.sleep = noted
silent = {name: lambda *_: None for name in ("log_info", "log_error", "log_debug", "fire_log_analytics")}
fl_ctx = FLContext()
for name, value in (
    (FLContextKey.WORKSPACE_OBJECT, SimpleNamespace(get_app_custom_dir=lambda _: "/tmp")),
    (FLContextKey.CURRENT_JOB_ID, "job"), (ReservedKey.RUN_NUM, "job"), (ReservedKey.IDENTITY_NAME, "site-1"),
):
    fl_ctx.set_prop(name, value, private=True, sticky=False)
backend = InProcessBackend()
backend.initialize(ClientAPIBackendContext(executor=SimpleNamespace(**silent), task_script_path=script), fl_ctx)
result = backend.execute("train", FLModelUtils.to_shareable(FLModel(params={"w": 1})), fl_ctx, Signal())
backend.finalize(fl_ctx)
print(json.dumps([FLModelUtils.from_shareable(result).metrics, waits]))
"""


@pytest.mark.parametrize(("setting", "poll"), [("client_api_poll", 0.02), ("none", 0.5)])
def test_script_and_executor_look_for_each_other_as_often_as_the_patch_says(tmp_path: Path, setting: str, poll: float) -> None:
    """Without it they do so twice a second: this test says when the patch is needed no more, or has no effect any more."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-c", EXECUTE, setting, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    metrics, waits = json.loads(done.stdout.splitlines()[-1])
    assert metrics == {"accuracy": 0.5}
    assert set(waits["MainThread"]) == {poll}
    assert set(waits["client_api_in_process_trainer"]) == {0.3, poll}
