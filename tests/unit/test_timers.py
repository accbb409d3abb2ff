"""What stands in for NVFlare's timers: a wait ends when what it waits for is there, and not before its time otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from nvflare.apis.fl_constant import MachineStatus
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl import wf_comm_server
from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.app_common.executors.client_api.in_process_backend import InProcessBackend
from nvflare.app_common.workflows import fedavg
from nvflare.client.in_process import api as in_process_api
from nvflare.client.in_process.api import InProcessClientAPI
from nvflare.fuel.f3.cellnet import connector_manager
from nvflare.private.fed import authenticator
from nvflare.private.fed.app import utils
from nvflare.private.fed.app.client import client_train
from nvflare.private.fed.app.deployer import server_deployer
from nvflare.private.fed.client import client_runner
from nvflare.private.fed.server import fed_server, server_commands, server_engine

from multisite.federation import timers
from multisite.federation.bell import TaskBell, task_news
from multisite.federation.recipe import FETCH_PERIOD
from multisite.federation.timers import JobBell, News

LONG = 20.0  # no wait of these tests lasts so long unless something is broken


def elapsed(wait: object) -> float:
    started = time.monotonic()
    wait()  # type: ignore[operator]
    return time.monotonic() - started


def test_news_that_came_before_the_wait_ends_it_at_once() -> None:
    news = News()
    news.tell()
    assert elapsed(lambda: news.sleep(LONG)) < LONG / 2
    assert elapsed(lambda: news.sleep(0.05)) >= 0.05


def test_news_in_the_middle_of_a_wait_ends_it() -> None:
    news = News()
    threading.Timer(0.05, news.tell).start()
    assert elapsed(lambda: news.sleep(LONG)) < LONG / 2


def test_every_thread_that_waits_hears_the_news() -> None:
    news, ended = News(), []
    threads = [threading.Thread(target=lambda: ended.append(elapsed(lambda: news.sleep(LONG)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    news.tell()
    for thread in threads:
        thread.join(LONG)
    assert len(ended) == 3


def test_the_bell_lets_an_idle_server_sleep_longer_than_nvflare_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "IDLE_SECONDS", 0.5)
    assert elapsed(lambda: JobBell(lambda: []).sleep(0.1)) >= 0.5


def test_the_bell_lets_a_server_that_runs_a_job_sleep_its_time() -> None:
    assert 0.3 <= elapsed(lambda: JobBell(lambda: ["a job"]).sleep(0.3)) < timers.IDLE_SECONDS


def test_the_bell_wakes_the_loops_after_a_submit_and_hurries_them_for_a_while() -> None:
    bell = JobBell(lambda: [])
    threading.Timer(0.05, bell.ring).start()
    assert elapsed(lambda: bell.sleep(LONG)) < LONG / 2
    assert elapsed(lambda: bell.sleep(LONG)) < LONG / 2


def test_the_end_of_a_jobs_process_rings_the_bell() -> None:
    running = ["a job"]
    bell = JobBell(lambda: running)
    threading.Timer(0.05, running.clear).start()
    assert elapsed(lambda: bell.sleep(LONG)) < LONG / 2


def test_what_upstreams_waits_look_for_is_still_under_the_names_that_are_watched() -> None:
    """Guards the pin: another NVFlare may keep its state elsewhere, and then nothing would wake."""
    api = InProcessClientAPI({})
    backend = InProcessBackend()
    assert {"fl_model", "abort", "stop", "closed", "_receive_error"} <= set(vars(api))
    assert {"_local_result", "_abort"} <= set(vars(backend))


def test_a_model_ends_the_scripts_wait_and_a_result_the_executors() -> None:
    timers.hurry_client_api()
    api, backend = in_process_backend.InProcessClientAPI({}), in_process_backend.InProcessBackend()
    in_process_backend.time.sleep(0.01)
    threading.Timer(0.05, lambda: setattr(api, "fl_model", object())).start()
    assert elapsed(lambda: in_process_api.time.sleep(LONG)) < LONG / 2
    threading.Timer(0.05, lambda: setattr(backend, "_local_result", object())).start()
    assert elapsed(lambda: in_process_backend.time.sleep(LONG)) < LONG / 2


def test_the_end_of_the_servers_part_of_a_job_ends_the_waits_for_it() -> None:
    timers.hurry_server_engine()
    state = server_engine.EngineInfo()
    fed_server.time.sleep(0.01)
    server_commands.time.sleep(0.01)
    for waits in (fed_server, server_commands):
        threading.Timer(0.05, lambda: setattr(state, "status", MachineStatus.STOPPED)).start()
        assert elapsed(lambda module=waits: module.time.sleep(LONG)) < LONG / 2  # type: ignore[misc]


def test_a_result_ends_every_wait_for_it_and_the_next_looks_follow_soon() -> None:
    timers.hurry_results()
    threading.Timer(0.05, timers.result_bell.ring).start()
    assert elapsed(lambda: wf_comm_server.time.sleep(LONG)) < LONG / 2
    assert elapsed(lambda: fedavg.time.sleep(LONG)) < LONG / 2


def test_without_a_result_the_server_looks_as_seldom_as_nvflare_does() -> None:
    bell = timers.ResultBell()
    assert elapsed(lambda: bell.sleep(0.2)) >= 0.18


def test_a_server_looks_for_lost_sites_seldom_and_stops_at_once() -> None:
    timers.rest_cleanup()
    server = server_deployer.FederatedServer.__new__(server_deployer.FederatedServer)
    server.shutdown = False
    fed_server.time.sleep(0.2)
    assert elapsed(lambda: fed_server.time.sleep(0.2)) > 1.0
    threading.Timer(0.05, lambda: setattr(server, "shutdown", True)).start()
    assert elapsed(lambda: fed_server.time.sleep(0.2)) < 1.0
    assert elapsed(lambda: fed_server.time.sleep(0.1)) < 1.0  # any other length is NVFlare's own


def test_a_node_does_not_wait_for_its_listener() -> None:
    timers.hurry_listener()
    assert elapsed(lambda: connector_manager.time.sleep(0.5)) < 0.4


def test_a_site_that_starts_asks_again_soon_and_one_that_has_started_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    timers.hurry_registration(lambda: bool(started))
    for module in (client_train, authenticator):
        assert elapsed(lambda module=module: module.time.sleep(1.0)) < 0.8  # type: ignore[misc]
    started.append(True)
    assert elapsed(lambda: client_train.time.sleep(0.3)) >= 0.3
    started.clear()
    monkeypatch.setattr(timers, "START_SECONDS", 0.0)
    timers.hurry_registration(lambda: bool(started))
    assert elapsed(lambda: authenticator.time.sleep(0.3)) >= 0.3


def test_an_admin_that_logs_in_asks_again_soon() -> None:
    timers.hurry_login()
    assert elapsed(lambda: authenticator.time.sleep(1.0)) < 0.8


def test_a_jobs_process_sees_that_its_parent_is_gone() -> None:
    timers.hurry_parent_watch()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert utils.psutil.pid_exists(child.pid)
    child.communicate(b"\n", timeout=LONG)
    assert not utils.psutil.pid_exists(child.pid)


def test_a_ring_ends_the_wait_of_a_site_for_its_next_task() -> None:
    threading.Timer(0.05, lambda: TaskBell()._heard("", Shareable(), FLContext())).start()
    assert elapsed(lambda: task_news.sleep(LONG)) < LONG / 2


def test_a_site_waits_its_fetch_interval_and_not_the_shorter_wait_for_the_servers_runner() -> None:
    timers.hurry_site_runner(News())
    assert elapsed(lambda: client_runner.time.sleep(0.5)) < 0.4
    assert elapsed(lambda: client_runner.time.sleep(FETCH_PERIOD)) >= 0.9 * FETCH_PERIOD
