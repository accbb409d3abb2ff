"""Runs a startup kit as the container's main process: `python -m multisite.node`.

NVFlare's own start scripts loop, poll and `kill -9`, and its processes ignore SIGTERM. This module runs the same entry
points, says when the participant is ready, and ends it cleanly: jobs first, then the connection, in less than ten seconds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from nvflare.apis.fl_constant import RunProcessKey, SystemComponents

from multisite import nvflare_patches
from multisite.job.limits import most_result_bytes
from multisite.job.messages import NODE_VARIABLE
from multisite.node import endings, logs, readiness, retention
from multisite.node.engine import ENGINE
from multisite.provisioning import policy
from multisite.provisioning.handout import STAMP
from multisite.provisioning.kit import KIT, Kit, KitError, read_kit
from multisite.tracking.environment import drop_empty_settings
from multisite.tracking.spool import ROOT_VARIABLE, Spool

WORKSPACE = Path("/workspace")
SPOOL = WORKSPACE / "spool"
READY = Path("/tmp/ready")  # fresh while the participant is ready: the container's health check looks at its age
WATCH_SECONDS = {"client": 5.0, "server": 10.0}  # a server connects to itself
START_WATCH_SECONDS = 0.1
STOP_SECONDS = 8.0
JOB_SECONDS = 2.5
GRACE_SECONDS = 0.5  # NVFlare sleeps 3 s before it cleans up; jobs have ended and the site has logged out by then
HEARTBEAT_SECONDS = 45.0  # NVFlare sends one every 10 s, and waits 30 s for an answer
LARGEST_HEAD = 1 << 20  # what a result's message has beside its arrays
ANSWER_SECONDS = 2.0  # a heartbeat is answered in milliseconds
# NVFlare takes these from the environment, in every process: a lost client is given up after 60 + 5 + 5 s, and a job whose server
# part has ended waits 30 s, not 15 minutes, for a site that was lost in between.
# A message is sent from a chunk of that size, however small it is: NVFlare's own is 1 MB.
NVFLARE_SETTINGS = {
    "NVFLARE_STREAMING_CHUNK_SIZE": str(1 << 18),
    "NVFLARE_DEAD_CLIENT_GRACE_PERIOD": "5",
    "NVFLARE_DEAD_CLIENT_CHECK_LEAD_TIME": "5",
    "NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT": "30",
}

logger = logging.getLogger("multisite.node")


def prepare_workspace(kit: Kit, workspace: Path, environment: dict[str, str]) -> None:
    """Puts the kit where NVFlare looks for it: a copy, with this participant's switches applied.

    Args:
        kit: read-only.
        workspace: NVFlare's workspace, writable.
        environment: LOG (plain, detail, json) and ALLOW_CUSTOM_CODE (yes, no).
    """
    # A copy, for NVFlare opens its files without following links; it is this participant's own volume.
    shutil.rmtree(workspace / "startup", ignore_errors=True)
    shutil.copytree(kit.folder / "startup", workspace / "startup")
    local = workspace / "local"
    shutil.rmtree(local, ignore_errors=True)
    shutil.copytree(kit.folder / "local", local)
    default = json.loads((local / "log_config.json.default").read_text(encoding="utf-8"))
    config = logs.configure(default, environment.get("LOG") or "plain")
    (local / "log_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if environment.get("ALLOW_CUSTOM_CODE") == "yes":
        path = local / policy.AUTHORIZATION
        allowed = policy.allow_custom_code(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(allowed, indent=1), encoding="utf-8")


def is_ready(kit: Kit) -> bool:
    """By NVFlare's own state: a server that lets others in, a site whose heartbeats the server accepts."""
    if ENGINE.value is None:
        return False
    if kit.role == "server":
        return readiness.lets_in(kit)
    return bool(ENGINE.value.client.token) and time.monotonic() - ENGINE.heartbeat < HEARTBEAT_SECONDS


def must_register_again(kit: Kit) -> bool:
    """Whether another key is the server's now: it refuses the token that this site has, without an answer.

    NVFlare 2.9's client sends its old token for ever then (`communicator.py`, `send_heartbeat`). A server that is back after a cut link,
    or started again, has its key still, and accepts the token: the site's jobs do not end with the cut.
    """
    if kit.role != "client" or ENGINE.unanswered is None or time.monotonic() - ENGINE.unanswered < ANSWER_SECONDS:
        return False
    key = kit.server_key()
    ENGINE.server_key = ENGINE.server_key or key
    return key not in (b"", ENGINE.server_key)


def _end_jobs(engine: Any) -> None:
    """Asks a site's job processes to abort, and ends those that have not in JOB_SECONDS: a training step may be long."""
    executor = engine.client_executor
    handles = [
        process[RunProcessKey.JOB_HANDLE]
        for process in list(executor.run_processes.values())
        if RunProcessKey.JOB_HANDLE in process
    ]
    for job_id in list(engine.get_all_job_ids()):
        threading.Thread(target=engine.abort_app, args=(job_id,), daemon=True, name=f"abort-{job_id}").start()
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline and engine.get_all_job_ids():
        time.sleep(0.1)
    for handle in handles:
        handle.terminate()


class Node:
    """The process's lifecycle around NVFlare's main loop."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.stopping = threading.Event()
        self.marker = self._read_marker()
        self.swept = False

    def _read_marker(self) -> str:
        marker = self.kit.folder / STAMP
        return marker.read_text(encoding="utf-8") if marker.exists() else ""

    def watch(self) -> None:
        """Keeps the readiness file fresh, and restarts the participant when its kit is replaced."""
        announced = False
        while not self.stopping.is_set():
            if must_register_again(self.kit):
                logger.warning("the server has a new key: %s restarts to register again", self.kit.name)
                endings.note_cut_off()
                _end_jobs(ENGINE.value)
                os._exit(0)  # a logout would wait for an answer to the refused token; the container is restarted
            if is_ready(self.kit):
                READY.touch()
                if not announced:
                    logger.info("%s is ready%s", self.kit.name, "" if self.kit.role == "server" else ": registered with the server")
                    announced = True
            else:
                READY.unlink(missing_ok=True)
            if self._read_marker() not in (self.marker, ""):
                logger.warning("%s has a new startup kit: restarting with it", self.kit.name)
                self.stop()
            self.stopping.wait(WATCH_SECONDS[self.kit.role] if announced else START_WATCH_SECONDS)

    def delete_old(self) -> None:
        """Deletes what is kept no longer, once an hour. Trouble with it ends nothing."""
        while not self.stopping.wait(retention.EVERY_SECONDS if self.swept else START_WATCH_SECONDS):
            engine = ENGINE.value
            if engine is None:
                continue
            self.swept = True
            try:
                running = engine.run_processes if self.kit.role == "server" else engine.get_all_job_ids()
                retention.sweep(WORKSPACE, Spool(SPOOL), list(running))
                if self.kit.role == "server":
                    store = engine.get_component(SystemComponents.JOB_MANAGER)
                    with engine.new_context() as fl_ctx:
                        retention.sweep_store(store, Path(policy.JOB_STORE), Spool(SPOOL), fl_ctx)
            except Exception as error:
                logger.warning("what is kept for too long could not be deleted: %s: %s", type(error).__name__, error)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM and SIGINT."""
        threading.Thread(target=self.stop, name="stop").start()

    def stop(self) -> None:
        """Ends the jobs, then NVFlare's main loop; after STOP_SECONDS the process ends in any case."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        endings.stopping.set()
        READY.unlink(missing_ok=True)
        logger.info("%s is stopping", self.kit.name)
        threading.Thread(target=self._end_by_force, daemon=True, name="stop-deadline").start()
        engine = ENGINE.value
        if engine is None:
            os._exit(0)
        if self.kit.role == "server":
            engine.server.shutdown_period = 2.0  # sites that are still connected are not waited for any longer
            engine.shutdown_server()
        else:
            _end_jobs(engine)
            engine.shutdown()

    def _end_by_force(self) -> None:
        time.sleep(STOP_SECONDS)
        logger.warning("%s did not end within %.0f s: ending it", self.kit.name, STOP_SECONDS)
        os._exit(0)

    def run(self) -> int:
        """Runs NVFlare's entry point for this kit until it ends.

        Returns:
            NVFlare's return code.
        """
        from nvflare.fuel.f3.mpm import MainProcessMonitor

        signal.signal(signal.SIGTERM, self.on_signal)
        signal.signal(signal.SIGINT, self.on_signal)
        threading.Thread(target=self.watch, daemon=True, name="watch").start()
        threading.Thread(target=self.delete_old, daemon=True, name="retention").start()
        settings = ["secure_train=true", f"org={self.kit.org}", "config_folder=config"]
        if self.kit.role == "server":
            from nvflare.private.fed.app.server import server_train as entry

            readiness.keep_out_of_the_log()
            arguments = argparse.Namespace(fed_server="fed_server.json")
        else:
            from nvflare.private.fed.app.client import client_train as entry

            ENGINE.server_key = self.kit.wait_for_server()
            settings.append(f"uid={self.kit.name}")
            arguments = argparse.Namespace(fed_client="fed_client.json", local_rank=0)
        arguments.workspace, arguments.set = str(WORKSPACE), settings
        return int(
            MainProcessMonitor.run(main_func=entry.main, run_dir=str(WORKSPACE), shutdown_grace_time=GRACE_SECONDS, args=arguments)
            or 0
        )


def main() -> int:
    """Entry point of a server's and a site's container."""
    READY.unlink(missing_ok=True)
    drop_empty_settings()  # for every process from here on: a user's own `wandb.login` in a job fails with them
    try:
        kit = read_kit(KIT)
        kit.check_valid()
        prepare_workspace(kit, WORKSPACE, dict(os.environ))
        most_result_bytes()
        retention.keep_seconds()
        nvflare_patches.apply()
    except (KitError, ValueError) as error:
        print(f"node: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault(ROOT_VARIABLE, str(SPOOL))
    os.environ[NODE_VARIABLE] = kit.role
    os.environ.update({name: value for name, value in NVFLARE_SETTINGS.items() if name not in os.environ})
    if kit.role == "server":
        os.environ["NVFLARE_STREAMING_MAX_BLOB_SIZE"] = str(most_result_bytes() + LARGEST_HEAD)
    return Node(kit).run()
