"""A job ends, with a name and a reason, whatever happens to its participants; and nobody's log fills up while it runs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.stack import Stack
from tests.e2e.test_03_jobs_end import jobs, start_long_job
from tests.e2e.test_07_faults import kill_python

ENDED_SECONDS = 120
FROZEN_SECONDS = 50
CLOSED_SECONDS = 30.0  # within which the server closes a connection: it waits 10 s for an answer to its closing frame
# RFC 6455, 4.1: what begins a WebSocket connection, on NVFlare's path (`nvflare/fuel/f3/drivers/aio_http_driver.py`).
UPGRADE = (
    b"GET /f3 HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# Lines a round with two sites: what is written for a person, and what NVFlare writes into its file.
MOST_LINES = {"server": 4, "site-1": 2, "site-2": 2, "admin": 1}
MOST_FILE_LINES = 100


def last_lines(process: subprocess.Popen[str], seconds: float) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode != 0, output
    return output[output.index("did not complete") :]


def frozen(stack: Stack, containers: list[str]) -> None:
    """Freezes containers for FROZEN_SECONDS."""
    assert stack.run("docker", "pause", *containers).code == 0
    until = time.monotonic() + FROZEN_SECONDS
    stack.wait_for(lambda: time.monotonic() > until, "the end of the frost", FROZEN_SECONDS + 5)
    assert stack.run("docker", "unpause", *containers).code == 0


def rounds(stack: Stack) -> int:
    """Rounds that the server has begun, over all jobs of its container."""
    return stack.compose("logs", "--no-log-prefix", "server").text.count("/1000 started")


def test_a_job_whose_sites_are_frozen_twice_must_go_on_or_end_by_name(stack: Stack) -> None:
    process, job_id = start_long_job(stack)
    sites = [stack.containers()[name] for name in ("site-1", "site-2")]
    for _ in range(2):
        frozen(stack, sites)
        begun = rounds(stack)
        stack.wait_for(
            lambda begun=begun: rounds(stack) > begun + 1 or process.poll() is not None, "a round, or the end", ENDED_SECONDS
        )
    if process.poll() is None:
        assert jobs(stack)[job_id] == "RUNNING"
        assert stack.make("abort").code == 0
        last_lines(process, ENDED_SECONDS)
    else:
        assert "\n  site-" in last_lines(process, ENDED_SECONDS)
    assert stack.make("up").code == 0
    assert stack.submit(ROUNDS="1").code == 0


@pytest.mark.parametrize(("service", "pattern"), [("site-2", "job_process site"), ("server", "job_process server")])
def test_a_killed_process_must_be_reported_under_its_own_name(stack: Stack, service: str, pattern: str) -> None:
    process, _ = start_long_job(stack)
    kill_python(stack, service, pattern)
    text = last_lines(process, ENDED_SECONDS)
    (named,) = [line for line in text.splitlines() if line.startswith(("  site-", "  server"))]
    assert named.startswith(f"  {service}: its job process was killed (SIGKILL)"), text


def test_a_site_whose_container_is_killed_must_be_reported_under_its_own_name(stack: Stack) -> None:
    process, _ = start_long_job(stack)
    assert stack.run("docker", "kill", stack.containers()["site-2"]).code == 0
    assert stack.compose("start", "site-2").code == 0
    text = last_lines(process, ENDED_SECONDS)
    assert "  site-2: its container ended while the job ran" in text, text


def test_a_server_that_is_killed_must_be_reported_under_its_own_name(stack: Stack) -> None:
    process, _ = start_long_job(stack)
    assert stack.run("docker", "kill", stack.containers()["server"]).code == 0
    assert stack.compose("start", "server").code == 0
    text = last_lines(process, ENDED_SECONDS)
    assert "  server: its container ended while the job ran" in text, text
    assert stack.make("up").code == 0
    assert stack.submit(ROUNDS="1").code == 0


def test_a_round_writes_a_few_lines_and_not_a_warning_a_message(stack: Stack) -> None:
    def lines() -> dict[str, int]:
        counted = {name: len(stack.compose("logs", "--no-log-prefix", name).text.splitlines()) for name in MOST_LINES}
        return {**counted, "file": int(stack.execute("server", "sh", "-c", "cat /workspace/log.txt | wc -l").text)}

    counts = [lines()]
    for rounds in ("2", "12"):
        assert stack.submit(ROUNDS=rounds).code == 0
        counts.append(lines())
    before, short, long = counts
    a_round = {name: ((long[name] - short[name]) - (short[name] - before[name])) / 10 for name in before}
    assert {name: count for name, count in a_round.items() if count > {**MOST_LINES, "file": MOST_FILE_LINES}[name]} == {}


def test_a_job_that_diverges_must_not_be_called_completed(stack: Stack) -> None:
    done = stack.submit(LR="1000", ROUNDS="3")
    assert done.code != 0
    assert "the training diverged" in done.text
    assert "a smaller LR" in done.text


def connection_with_a_kit(stack: Stack, folder: Path) -> ssl.SSLSocket:
    """A TLS connection to the published port with site-2's certificate, and nothing sent yet."""
    for name in ("client.crt", "client.key"):
        (folder / name).write_text(stack.execute("site-2", "cat", f"/kit/startup/{name}").text, encoding="utf-8")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the attacker need not know the server
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", stack.port), timeout=10))


def test_messages_before_the_handshake_must_hold_up_nobody(stack: Stack, tmp_path: Path) -> None:
    process, _ = start_long_job(stack)
    data_frame = struct.pack(">IHBBHHHH", 16, 0, 1, 0, 0, 1, 0, 0)  # nvflare/fuel/f3/sfm/prefix.py: a DATA frame of its prefix only
    message = b"\x82\x90" + bytes(4) + data_frame  # RFC 6455, 5.2: a binary message of 16 bytes, masked with zeros
    for _ in range(2):
        with connection_with_a_kit(stack, tmp_path) as connection:
            connection.sendall(UPGRADE)
            assert connection.recv(4096).startswith(b"HTTP/1.1 101")
            connection.settimeout(CLOSED_SECONDS)
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # the server closes it, or has while this sends
                connection.sendall(message * 5000)
                while connection.recv(4096):
                    pass
        started = time.monotonic()
        listed = jobs(stack)
        assert time.monotonic() - started < 10
        assert "RUNNING" in listed.values()
    assert "site-1, site-2" in stack.execute("admin", "python", "-m", "multisite.admin.command_line", "wait").text.replace('"', "")
    assert stack.make("abort").code == 0
    process.communicate(timeout=ENDED_SECONDS)
