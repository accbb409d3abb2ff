"""What stands in for NVFlare's timers: a wait ends when what it waits for is there, and not before its time otherwise."""

from __future__ import annotations

import threading
import time

from nvflare.apis.fl_constant import MachineStatus
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl import wf_comm_server
from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api.in_process_backend import InProcessBackend
from nvflare.app_common.workflows import fedavg
from nvflare.client.in_process.api import InProcessClientAPI
from nvflare.fuel.f3.streaming import byte_receiver
from nvflare.private.fed.client import client_runner
from nvflare.private.fed.server import fed_server, server_commands, server_engine

from multisite.federation import shared_timer, timers
from multisite.federation.bell import TaskBell, task_news
from multisite.federation.recipe import FETCH_PERIOD
from multisite.federation.shared_timer import SharedTimer
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


def test_the_bell_lets_an_idle_server_sleep_its_time() -> None:
    bell = JobBell(lambda: [])
    assert elapsed(lambda: bell.sleep(0.3)) >= 0.3


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
    api, backend = timers.PromptClientAPI({}), timers.PromptBackend()
    timers._news.sleep(0.01)
    threading.Timer(0.05, lambda: setattr(api, "fl_model", object())).start()
    assert elapsed(lambda: timers._news.sleep(LONG)) < LONG / 2
    threading.Timer(0.05, lambda: setattr(backend, "_local_result", object())).start()
    assert elapsed(lambda: timers._news.sleep(LONG)) < LONG / 2


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


def test_shared_timers_call_in_order_of_time_and_a_cancelled_one_never_does() -> None:
    called: list[str] = []
    ended = threading.Event()
    timers_ = [
        SharedTimer(0.2, ended.set),
        SharedTimer(LONG, lambda: called.append("long")),
        SharedTimer(0.1, lambda: called.append("second")),
        SharedTimer(0.02, lambda: called.append("first")),
        SharedTimer(0.05, lambda: called.append("cancelled")),
    ]
    for timer in timers_:
        timer.start()
    timers_[4].cancel()
    assert ended.wait(LONG / 2)
    assert called == ["first", "second"]
    timers_[1].cancel()
    timers_[3].cancel()  # too late, and nothing happens


def test_a_timer_whose_call_fails_stops_no_other() -> None:
    ended = threading.Event()
    SharedTimer(0.01, lambda: [][0]).start()  # type: ignore[arg-type]
    SharedTimer(0.05, ended.set).start()
    assert ended.wait(LONG / 2)


def test_a_thousand_received_messages_cost_no_thread_each() -> None:
    """NVFlare keeps a thread for 60 s for every message that it received; a container has 512."""
    before = threading.active_count()
    waiting = [SharedTimer(LONG, print) for _ in range(1000)]
    for timer in waiting:
        timer.start()
    assert threading.active_count() <= before + 1
    for timer in waiting:
        timer.cancel()


def test_nvflares_receiver_makes_its_timers_where_ours_stand_in() -> None:
    """Guards the pin: the seam is the name `threading` in that module."""
    shared_timer.share_stream_timers()
    assert byte_receiver.threading.Timer is SharedTimer
    assert byte_receiver.threading.Lock is threading.Lock


def test_a_ring_ends_the_wait_of_a_site_for_its_next_task() -> None:
    threading.Timer(0.05, lambda: TaskBell()._heard("", Shareable(), FLContext())).start()
    assert elapsed(lambda: task_news.sleep(LONG)) < LONG / 2


def test_a_site_waits_its_fetch_interval_and_not_the_shorter_wait_for_the_servers_runner() -> None:
    timers.hurry_site_runner(News())
    assert elapsed(lambda: client_runner.time.sleep(0.5)) < 0.4
    assert elapsed(lambda: client_runner.time.sleep(FETCH_PERIOD)) >= 0.9 * FETCH_PERIOD
