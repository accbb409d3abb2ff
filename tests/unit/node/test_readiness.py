"""When a server says that it lets others in: NVFlare's own listener and its frame threads, over TLS."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nvflare.fuel.f3.drivers.aio_http_driver import AioHttpDriver
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.sfm import conn_manager
from nvflare.fuel.f3.sfm.conn_manager import FRAME_THREAD_POOL_SIZE, ConnManager

from multisite.node import readiness
from multisite.provisioning.kit import Kit
from tests.unit.certificates import ENDED, gateway_without_server, tls_listener, write_certificates

LONG = 20.0  # no wait of these tests lasts so long unless something is broken


def server_kit(folder: Path, port: int, scheme: str = "http", root: str = "root") -> Kit:
    """A server's kit."""
    write_certificates(folder / "startup", "server", "server", root)
    content = {"servers": [{"service": {"target": f"server:{port}", "scheme": scheme}}]}
    (folder / "startup" / "fed_server.json").write_text(json.dumps(content), encoding="utf-8")
    return Kit(folder, "server", "server", "org", ENDED)


@contextlib.contextmanager
def nvflare(kit: Kit) -> Iterator[ConnManager]:
    """NVFlare's connections of a server, listening, as a node has them."""
    startup = kit.folder / "startup"
    params = {
        "scheme": "https", "host": "0.0.0.0", "path": "", "port": kit.server_address[1], "secure": True, "ca_cert": str(startup / "rootCA.pem"),
        "server_cert": str(startup / "server.crt"), "server_key": str(startup / "server.key"),
    }  # fmt: skip
    manager = ConnManager(Endpoint("server"))
    manager.add_connector(AioHttpDriver(), params, Mode.PASSIVE)
    manager.start()
    try:
        wait_until(kit.server_answers)
        yield manager
    finally:
        manager.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls until `condition` holds."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return server_kit(tmp_path / "kit", port)


def test_a_server_lets_in_while_it_listens(kit: Kit) -> None:
    with nvflare(kit):
        assert readiness.lets_in(kit)
    assert not readiness.lets_in(kit)


def test_a_server_whose_frame_threads_are_stuck_lets_nobody_in_until_they_go_on(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.5)
    go_on = threading.Event()
    with nvflare(kit) as manager:
        assert readiness.lets_in(kit)
        for _ in range(FRAME_THREAD_POOL_SIZE):
            manager.frame_mgr_executor.submit(go_on.wait, LONG)
        assert kit.server_answers(), "TLS alone does not see it"
        assert not readiness.lets_in(kit)
        go_on.set()
        wait_until(lambda: readiness.lets_in(kit))


def test_the_check_leaves_nothing_behind_in_nvflares_tables_and_in_no_log(
    kit: Kit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    readiness.keep_out_of_the_log()
    (own,) = [known for known in conn_manager.log.filters if isinstance(known, readiness.OwnConnections)]
    try:
        with nvflare(kit) as manager:
            wait_until(lambda: not manager.sfm_conns)
            caplog.clear()
            assert all(readiness.lets_in(kit) for _ in range(100)), "an answer that comes by chance is none"
            wait_until(lambda: not manager.sfm_conns)
            assert manager.sfm_endpoints == {}
            assert [record.getMessage() for record in caplog.records if record.name.startswith("nvflare")] == []
            monkeypatch.setattr(readiness, "SOURCE", "127.0.0.3")
            assert readiness.lets_in(kit), "from another address: everybody else's connections are logged"
            wait_until(lambda: any("is created" in record.getMessage() for record in caplog.records))
    finally:
        conn_manager.log.removeFilter(own)


def test_a_port_that_accepts_and_says_nothing_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not readiness.lets_in(server_kit(tmp_path / "kit", silent.getsockname()[1]))
    with gateway_without_server() as (port, _):
        assert not readiness.lets_in(server_kit(tmp_path / "other", port))


def test_a_server_with_the_certificate_of_another_root_lets_nobody_in(tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener", root="another") as port:
        assert not readiness.lets_in(server_kit(tmp_path / "kit", port))


@pytest.mark.parametrize(("scheme", "lets_in"), [("grpc", True), ("http", False)])
def test_where_the_scheme_is_grpc_tls_alone_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, lets_in: bool
) -> None:
    """The listener of this test ends TLS, and answers no HELLO."""
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.5)
    with tls_listener(tmp_path / "listener") as port:
        assert readiness.lets_in(server_kit(tmp_path / "kit", port, scheme)) is lets_in
