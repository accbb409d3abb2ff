"""Metrics under faults: every value, exactly once, with its own step. A short set always; all of it with `make test-faults`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.e2e.drill.job import Drill, arrived, logged, spool
from tests.e2e.drill.script import expected
from tests.e2e.stack import KEY, Stack, switch
from tests.wandb_backend.client import rows, set_faults

matrix = pytest.mark.skipif(os.environ.get("FAULTS") != "all", reason="part of `make test-faults`")
FULL = Drill(rounds=3, values=400, seconds=8.0)
LONG = {"seconds": 25.0}  # a job that outlives a fault of FAULT_SECONDS
FAULT_SECONDS = 60


@pytest.fixture(scope="module")
def open_stack(stack: Stack) -> Iterator[Stack]:
    """The deployment with the switch on that lets a job bring its own script."""
    env = stack.home / ".env"
    original = env.read_text(encoding="utf-8")
    env.write_text("ALLOW_CUSTOM_CODE=yes\n" + original, encoding="utf-8")
    assert stack.make("up").code == 0
    yield stack
    env.write_text(original, encoding="utf-8")
    switch(stack, clients=False)


@pytest.fixture(scope="module", params=["server", "clients"])
def clients(open_stack: Stack, request: pytest.FixtureRequest) -> bool:
    """Both ways of streaming: whether the sites deliver."""
    switch(open_stack, request.param == "clients")
    return bool(request.param == "clients")


@pytest.fixture(autouse=True)
def healthy(open_stack: Stack) -> Iterator[None]:
    """Whatever a test did to the backend and the key is undone."""
    yield
    set_faults(open_stack.backend_url())
    open_stack.write_key(KEY)


def drill(clients: bool, **changes: object) -> Drill:
    return Drill(**{**vars(FULL), "clients": clients, **changes})  # type: ignore[arg-type]


def begin(stack: Stack, job: Drill, rows: int = 50) -> str:
    """Submits a job and returns when site-1 has logged some rows."""
    job_id = job.submit(stack)
    stack.wait_for(lambda: logged(stack, "site-1", job_id, "site-1") > rows, "site-1 logs", 90)
    return job_id


def settle(stack: Stack, job: Drill, job_id: str, seconds: float = 120.0) -> None:
    """Waits until the backend has everything, without any help."""
    wanted = job.rounds * job.values

    def complete() -> bool:
        state = stack.backend()
        return all(len(arrived(state, job_id, site)) >= wanted for site in job.site_names())

    stack.wait_for(complete, f"the backend has all of job {job_id}", seconds)
    job.check(stack.backend(), job_id)


def kill_python(stack: Stack, service: str, pattern: str) -> None:
    """SIGKILL of the process in a container whose command line has `pattern`."""
    script = (
        "import os,sys,pathlib\n"
        "for p in pathlib.Path('/proc').iterdir():\n"
        "    if p.name.isdigit() and int(p.name) != os.getpid():\n"
        "        try: line = (p/'cmdline').read_bytes().replace(b'\\0', b' ').decode()\n"
        "        except OSError: continue\n"
        "        if sys.argv[1] in line and 'python' in line and 'import os,sys' not in line: print(p.name); os.kill(int(p.name), 9)\n"
    )
    done = stack.execute(service, "python", "-c", script, pattern)
    assert done.text.strip(), f"no process of {service} has {pattern!r} in its command line"


def check_no_more_than_logged(stack: Stack, job: Drill, job_id: str) -> None:
    """Where a job's process died: everything it had logged has arrived, once, in order."""

    def complete() -> bool:
        for site in job.site_names():
            count = logged(stack, site, job_id, site)
            found = arrived(stack.backend(), job_id, site)
            if len(found) < count:
                return False
            assert found == expected(job.rounds, job.values, job.pattern)[: len(found)]
        return True

    stack.wait_for(complete, "everything that was logged has arrived", 180)
    assert arrived(stack.backend(), job_id, "site-1")  # which `begin` has waited for


def check_training_time(stack: Stack, job: Drill, job_id: str) -> None:
    """Through the server, whose run has a row a round: no round took longer than its training by more than 5%."""
    if job.clients:
        return
    found = [row for run in stack.backend().runs() if job_id in str(run["group"]) for row in rows(run)]
    rounds = [float(str(row["global/round_seconds"])) for row in found if "global/round_seconds" in row]
    assert len(rounds) == job.rounds
    assert max(rounds) < job.seconds * 1.05


def test_steps_repeated_out_of_order_restarting_and_absent_arrive_as_they_were_logged(open_stack: Stack, clients: bool) -> None:
    job = Drill(rounds=20, values=1000, seconds=0.0, clients=clients, wait_seconds=60)
    job_id = job.run(open_stack)
    job.check(open_stack.backend(), job_id)
    report = spool(open_stack, "server", job_id)
    assert report["pending"] == 0
    for site in job.site_names():
        assert report["sites"][site]["logged"] == report["sites"][site]["delivered"] == 20_000


def test_a_backend_that_refuses_connections_for_a_while_loses_nothing(open_stack: Stack, clients: bool) -> None:
    job = drill(clients)
    job_id = begin(open_stack, job)
    set_faults(open_stack.backend_url(), refuse=FAULT_SECONDS if os.environ.get("FAULTS") == "all" else 15)
    assert job.wait(open_stack, job_id) == "FINISHED:COMPLETED"
    settle(open_stack, job, job_id)


@matrix
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_backend_that_answers_with_an_error_for_a_while_loses_nothing(open_stack: Stack, clients: bool, status: int) -> None:
    job = drill(clients, **LONG)
    job_id = begin(open_stack, job)
    set_faults(open_stack.backend_url(), graphql=status, file_stream=status)
    time.sleep(FAULT_SECONDS)  # the fault's length, not a wait
    set_faults(open_stack.backend_url())
    assert job.wait(open_stack, job_id) == "FINISHED:COMPLETED"
    settle(open_stack, job, job_id)
    check_training_time(open_stack, job, job_id)


@matrix
def test_answers_that_are_lost_after_the_rows_were_stored_double_nothing(open_stack: Stack, clients: bool) -> None:
    job = drill(clients, **LONG)
    job_id = begin(open_stack, job)
    set_faults(open_stack.backend_url(), drop=True)
    time.sleep(FAULT_SECONDS)  # the fault's length
    set_faults(open_stack.backend_url())
    assert job.wait(open_stack, job_id) == "FINISHED:COMPLETED"
    settle(open_stack, job, job_id)
    check_training_time(open_stack, job, job_id)


@matrix
def test_a_slow_backend_slows_no_training(open_stack: Stack, clients: bool) -> None:
    set_faults(open_stack.backend_url(), delay=2.0)
    job = drill(clients, wait_seconds=60)
    job_id = job.run(open_stack, 240)
    settle(open_stack, job, job_id, 180)
    check_training_time(open_stack, job, job_id)


@matrix
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_expires_is_said_and_a_good_one_delivers_the_rest(open_stack: Stack, clients: bool, status: int) -> None:
    job = drill(clients)
    job_id = begin(open_stack, job)
    set_faults(open_stack.backend_url(), graphql=status, file_stream=status)
    assert job.wait(open_stack, job_id) == "FINISHED:COMPLETED"
    report = spool(open_stack, "server", job_id)
    assert report["pending"] > 0
    assert {401: "refused the API key", 403: "forbids this to the API key"}[status] in report["reason"]
    assert f"HTTP {status}" in report["reason"]
    set_faults(open_stack.backend_url())
    synced = open_stack.make("sync")
    assert synced.code == 0, synced.text
    job.check(open_stack.backend(), job_id)


def test_a_backend_that_is_down_for_the_whole_job_gets_everything_from_make_sync(open_stack: Stack, clients: bool) -> None:
    set_faults(open_stack.backend_url(), graphql=503, file_stream=503)
    job = drill(clients, seconds=3.0)
    started = time.monotonic()
    job_id = job.run(open_stack)
    assert time.monotonic() - started < 90
    assert spool(open_stack, "server", job_id)["pending"] >= 2 * job.rounds * job.values
    set_faults(open_stack.backend_url())
    for _ in range(2):
        synced = open_stack.make("sync")
        assert synced.code == 0, synced.text
        job.check(open_stack.backend(), job_id)


@matrix
def test_a_link_that_is_cut_for_30_seconds_loses_nothing(open_stack: Stack, clients: bool) -> None:
    job = drill(clients)
    job_id = begin(open_stack, job)
    container, network = open_stack.containers()["site-1"], f"{open_stack.name}_site-1"
    assert open_stack.run("docker", "network", "disconnect", network, container).code == 0
    time.sleep(30)  # the cut's length
    assert open_stack.run("docker", "network", "connect", "--alias", "site-1", network, container).code == 0
    job.wait(open_stack, job_id, 240)
    check_no_more_than_logged(open_stack, job, job_id)
    if not clients:
        assert spool(open_stack, "server", job_id)["sites"]["site-1"]["logged"] == logged(open_stack, "site-1", job_id, "site-1")


def test_a_killed_writer_is_replaced_and_repeats_nothing(open_stack: Stack, clients: bool) -> None:
    job = drill(clients, wait_seconds=60)
    job_id = begin(open_stack, job)
    service = "site-1" if clients else "server"
    for _ in range(3 if os.environ.get("FAULTS") == "all" else 1):
        open_stack.wait_for(lambda: spool(open_stack, service, job_id)["state"] == "online", "a writer", 60)
        kill_python(open_stack, service, "multisite.tracking.writer")
        deadline = time.monotonic() + random.uniform(2, 6)
        open_stack.wait_for(lambda: time.monotonic() > deadline, "a random moment", 10)  # noqa: B023
        open_stack.wait_for(lambda: spool(open_stack, service, job_id)["state"] in ("online", "done"), "the next writer", 60)
    assert job.wait(open_stack, job_id) == "FINISHED:COMPLETED"
    settle(open_stack, job, job_id)


@matrix
def test_a_killed_job_process_of_a_site_leaves_what_it_logged(open_stack: Stack, clients: bool) -> None:
    job = drill(clients)
    job_id = begin(open_stack, job)
    kill_python(open_stack, "site-1", "job_process site")
    job.wait(open_stack, job_id, 240)
    check_no_more_than_logged(open_stack, job, job_id)


@matrix
def test_a_killed_job_process_of_the_server_leaves_what_the_sites_logged(open_stack: Stack, clients: bool) -> None:
    job = drill(clients)
    job_id = begin(open_stack, job)
    kill_python(open_stack, "server", "job_process server")
    job.wait(open_stack, job_id, 240)
    check_no_more_than_logged(open_stack, job, job_id)


@matrix
@pytest.mark.parametrize("service", ["site-1", "server"])
def test_a_killed_container_goes_on_with_what_was_logged(open_stack: Stack, clients: bool, service: str) -> None:
    job = drill(clients)
    job_id = begin(open_stack, job)
    kill = open_stack.run("docker", "kill", open_stack.containers()[service])
    assert kill.code == 0, kill.text
    assert open_stack.make("up").code == 0
    open_stack.make("abort", JOB=job_id)
    check_no_more_than_logged(open_stack, job, job_id)


@matrix
def test_the_runs_of_an_aborted_job_end_as_interrupted(open_stack: Stack, clients: bool) -> None:
    job_id = begin(open_stack, drill(clients, **LONG))
    assert open_stack.make("abort", JOB=job_id).code == 0

    def killed() -> bool:
        runs = [run for run in open_stack.backend().runs() if job_id in str(run["group"])]
        return len(runs) >= 2 and all(run["complete"] and run["exit_code"] == 255 for run in runs)

    open_stack.wait_for(killed, "both sites' runs are finished, with exit code 255", 90)


@matrix
def test_a_site_that_begins_to_log_late_gets_its_run(open_stack: Stack, clients: bool) -> None:
    job = drill(clients, pattern="global", late="site-2:2", seconds=3.0)
    job_id = job.run(open_stack)
    open_stack.wait_for(lambda: len(arrived(open_stack.backend(), job_id, "site-2")) == job.values, "site-2's rows", 60)
    assert arrived(open_stack.backend(), job_id, "site-2") == expected(job.rounds, job.values, "global")[-job.values :]
    assert arrived(open_stack.backend(), job_id, "site-1") == expected(job.rounds, job.values, "global")


@pytest.mark.parametrize("clients", ["server"], indirect=True)  # the site's log is the same in both ways
def test_a_full_disk_costs_metrics_that_are_counted_and_no_training(open_stack: Stack, clients: bool) -> None:
    job = drill(False, rounds=2, values=3000, seconds=1.0, pattern="global", wait_seconds=10)
    fill = "import os; d = '/workspace/spool/'; s = os.statvfs(d); open(d + 'ballast', 'wb').write(b'0' * max(0, s.f_bavail * s.f_frsize - 120_000))"
    overlay = open_stack.home / "small-disk.yaml"
    overlay.write_text(
        'services: {site-1: {tmpfs: ["/tmp:mode=1777", "/workspace/spool:uid=1000,gid=1000,size=2m"]}}\n', encoding="utf-8"
    )
    env = open_stack.home / ".env"
    before = env.read_text(encoding="utf-8")
    env.write_text(before.replace("COMPOSE_EXTRA=", f"COMPOSE_EXTRA={overlay}:"), encoding="utf-8")
    try:
        assert open_stack.make("up").code == 0
        assert open_stack.execute("site-1", "python", "-c", fill).code == 0
        job_id = job.run(open_stack)
        site = spool(open_stack, "server", job_id)["sites"]["site-1"]
        assert site["refused"] > 0
        assert site["logged"] + site["refused"] == job.rounds * job.values
        assert site["delivered"] == site["logged"] > 0
        assert "No space left on device" in open_stack.compose("logs", "site-1").text
        assert len(arrived(open_stack.backend(), job_id, "site-1")) == site["logged"]
        assert arrived(open_stack.backend(), job_id, "site-2") == expected(job.rounds, job.values, "global")
    finally:
        env.write_text(before, encoding="utf-8")
        assert open_stack.make("up").code == 0
