"""Whoever reaches the published port without a certificate, and a site's container that tries the host's own addresses."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.stack import Stack
from tests.e2e.test_04_participants import host_address, registered

HALF_HANDSHAKES = 8000  # some 6,400 took a server of 2 GiB down
FLOOD_SECONDS = 32.0
HALF_HELLO = b"\x16\x03\x01\x02\x00\x01"
PER_ADDRESS, HELLO_SECONDS = 200, 10.0  # as .env.example has them
SERVER_MIB, GATEWAY_MIB = 256.0, 64.0
ROUNDS = 6
UNITS = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}
LOGIN = "from multisite.admin.service import session\nwith session(20) as own: print(own.get_system_info())"
SIGNAL = 'for p in /proc/[0-9]*; do case "$(tr "\\0" " " <$p/cmdline)" in "python -m multisite.node "*) kill -$1 ${p#/proc/};; esac; done'
REACH = """
import concurrent.futures, socket, sys
def reached(address):
    try: socket.create_connection((address, int(sys.argv[1])), 4).close()
    except OSError: return False
    return True
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print("reached:", *(address for address, yes in zip(sys.argv[2:], pool.map(reached, sys.argv[2:])) if yes))
"""


@pytest.fixture(scope="module")
def open_port(stack: Stack) -> Iterator[str]:
    """Publishes the port on every address of the host; gives one that reaches it with the peer's own address."""
    env = stack.home / ".env"
    original = env.read_text(encoding="utf-8")
    env.write_text("BIND_ADDRESS=0.0.0.0\n" + original, encoding="utf-8")
    up = stack.make("up")
    assert up.code == 0, up.text
    yield host_address()
    env.write_text(original, encoding="utf-8")
    assert stack.make("up").code == 0


def connections_to(address: str, port: int, count: int, first: bytes, keep: list[socket.socket], seconds: float = 0.0) -> None:
    """Opens connections that send `first` and then nothing, evenly over `seconds`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, HALF_HANDSHAKES + 1000)), hard))
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + seconds * number / count - time.monotonic()))  # the pace of the flood
        with contextlib.suppress(OSError):  # cut, before it is known to be made or while it sends
            keep.append(socket.create_connection((address, port), timeout=5))
            keep[-1].sendall(first)


def let_in(stack: Stack, address: str) -> None:
    """Waits until the gateway has forgotten what came from this test's address before."""

    def waits_for_more() -> bool:
        try:
            with socket.create_connection((address, stack.port), timeout=0.5) as connection:
                connection.sendall(HALF_HELLO)
                connection.recv(1)
        except TimeoutError:
            return True
        except OSError:  # a connection that is refused is reset at once, or even before it is known to be made
            pass
        return False

    stack.wait_for(waits_for_more, "connections of this address are let in", seconds=4 * HELLO_SECONDS)


def cut(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection; what it sent before that is read."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def ended_by_peer(connection: socket.socket) -> bool:
    """Waits for what comes next, for the connection's timeout; whether that is its end.

    Raises:
        TimeoutError: nothing comes.
    """
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def client_hello() -> bytes:
    """A whole one, without a certificate behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


def memory(stack: Stack, *services: str) -> list[float]:
    """MiB that containers use, as `docker stats` says."""
    boxes = stack.containers()
    shown = stack.run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", *(boxes[name] for name in services)).text
    return [float(number) * UNITS[unit] for number, unit in re.findall(r"^([\d.]+)([KMG]iB) /", shown, re.MULTILINE)]


def health(stack: Stack, service: str) -> bool:
    """A service's health check, made now."""
    test = stack.inspect(stack.containers()[service])["Config"]["Healthcheck"]["Test"]
    assert test[0] == "CMD-SHELL"
    return stack.execute(service, "timeout", "5", "sh", "-c", test[1]).code == 0


@contextlib.contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` again and again meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def log_in_from_elsewhere(stack: Stack, address: str) -> str:
    """What an admin sees who comes through the published port: from a container on a network that the deployment has no part in."""
    image = stack.inspect(stack.containers()["admin"])["Config"]["Image"]
    run = [
        "docker",
        "run",
        "--rm",
        "--network",
        "bridge",
        "--add-host",
        f"server:{address}",
        "-v",
        f"{stack.name}_kit-admin:/kit:ro",
    ]
    return stack.run(*run, image, "python", "-c", LOGIN, seconds=60).text


def test_half_handshakes_from_one_address_must_cost_nobody_else_anything(stack: Stack, open_port: str) -> None:
    started = stack.inspect(stack.containers()["server"])["State"]["StartedAt"]
    job = stack.start(ROUNDS=str(ROUNDS))
    assert job.stdout is not None
    assert any(f"round 1/{ROUNDS}" in line for line in job.stdout)
    keep: list[socket.socket] = []
    peaks = [0.0, 0.0]

    def look() -> None:
        peaks[:] = map(max, peaks, memory(stack, "server", "gateway"))

    arguments = (open_port, stack.port, HALF_HANDSHAKES, HALF_HELLO, keep, FLOOD_SECONDS)
    flood = threading.Thread(target=connections_to, args=arguments)
    flood.start()
    try:
        with watched(look):
            stack.wait_for(lambda: len(keep) > 3 * PER_ADDRESS, "the flood is under way")
            assert "site-1" in log_in_from_elsewhere(stack, open_port)
            assert health(stack, "server")
            assert health(stack, "gateway")
            assert flood.is_alive(), "all of this was during the flood"
            flood.join(2 * FLOOD_SECONDS)
            output, _ = job.communicate(timeout=300)
        assert not flood.is_alive(), "every one was tried"
        assert sum(not cut(connection) for connection in keep) <= PER_ADDRESS
    finally:
        for connection in keep:
            connection.close()
    print(f"{HALF_HANDSHAKES} half handshakes: at most {peaks[0]:.0f} MiB in the server, {peaks[1]:.0f} MiB in the gateway")
    assert job.returncode == 0, output
    assert peaks[0] < SERVER_MIB
    assert 0 < peaks[1] < GATEWAY_MIB
    assert stack.inspect(stack.containers()["server"])["State"]["StartedAt"] == started
    assert '"site-1", "site-2"' in registered(stack)


def test_what_is_no_whole_client_hello_in_time_must_not_reach_the_server(stack: Stack, open_port: str) -> None:
    let_in(stack, open_port)
    with socket.create_connection((open_port, stack.port), timeout=3 * HELLO_SECONDS) as half:
        began = time.monotonic()
        half.sendall(HALF_HELLO)
        assert ended_by_peer(half)
        assert 0.7 * HELLO_SECONDS < time.monotonic() - began < 2 * HELLO_SECONDS
    with socket.create_connection((open_port, stack.port), timeout=HELLO_SECONDS / 2) as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
        assert ended_by_peer(other), "cut at once: this can't become one"


def test_whole_client_hellos_without_a_certificate_must_hold_no_more_than_one_addresss_share(stack: Stack, open_port: str) -> None:
    let_in(stack, open_port)
    keep: list[socket.socket] = []
    try:
        connections_to(open_port, stack.port, 2 * PER_ADDRESS, client_hello(), keep)
        stack.wait_for(lambda: sum(not cut(connection) for connection in keep) <= PER_ADDRESS, "one address's share")
        assert any(not cut(connection) for connection in keep)
        (server,) = memory(stack, "server")
        assert server < SERVER_MIB
        assert "site-1" in log_in_from_elsewhere(stack, open_port)
    finally:
        for connection in keep:
            connection.close()


def test_the_gateways_health_must_show_whether_the_server_is_reached_through_it(stack: Stack) -> None:
    assert health(stack, "gateway")
    try:
        assert stack.compose("stop", "server").code == 0
        assert not health(stack, "gateway")
    finally:
        assert stack.compose("start", "server").code == 0
    stack.wait_for(lambda: health(stack, "gateway"), "the gateway finds the server again")
    stack.wait_for(lambda: '"site-1", "site-2"' in registered(stack), "both sites registered")


def test_a_frozen_server_must_be_unhealthy_and_healthy_again_when_it_goes_on(stack: Stack) -> None:
    stack.wait_for(lambda: health(stack, "server"), "the server healthy")
    try:
        assert stack.execute("server", "sh", "-c", SIGNAL, "sh", "STOP").code == 0
        stack.wait_for(lambda: not health(stack, "server"), "the server unhealthy", seconds=60)
        assert not health(stack, "gateway")
    finally:
        assert stack.execute("server", "sh", "-c", SIGNAL, "sh", "CONT").code == 0
    stack.wait_for(lambda: health(stack, "server") and health(stack, "gateway"), "both healthy again")
    stack.wait_for(lambda: '"site-1", "site-2"' in registered(stack), "both sites registered")


def test_a_site_must_not_reach_what_listens_on_the_host(stack: Stack) -> None:
    """The server and the data one-shot can, on the network `egress`: that one leads out."""
    addresses = {entry["local"] for link in json.loads(stack.run("ip", "-json", "-4", "addr").text) for entry in link["addr_info"]}
    addresses = {address for address in addresses if not address.startswith("127.")}
    for name in ("site-1", "site-2", "admin", "gateway", "published", "egress"):
        addresses |= {
            part["Gateway"]
            for part in json.loads(stack.run("docker", "network", "inspect", f"{stack.name}_{name}").text)[0]["IPAM"]["Config"]
        }
    with socket.create_server(("0.0.0.0", 0)) as listening:
        port = str(listening.getsockname()[1])
        for name in ("site-1", "site-2", "admin"):
            tried = stack.execute(name, "python", "-c", REACH, port, *sorted(addresses)).text
            assert tried.strip() == "reached:", f"{name}: {tried}"
        assert host_address() in stack.execute("server", "python", "-c", REACH, port, *sorted(addresses)).text
