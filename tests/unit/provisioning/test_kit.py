"""A startup kit: whose it is, and until when it is valid."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from multisite.provisioning import kit as kits
from multisite.provisioning.kit import Kit, KitError, read_kit
from tests.unit.certificates import ENDED, expired_certificate, gateway_without_server, tls_listener, write_certificates

LONG = 20.0  # no wait of these tests lasts so long unless something is broken


def test_an_expired_kit_is_an_error_that_names_who_when_and_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text("{}", encoding="utf-8")
    (tmp_path / "startup" / "client.crt").write_bytes(expired_certificate("site-7", ENDED))
    kit = read_kit(tmp_path)
    assert (kit.role, kit.name, kit.org, kit.expires) == ("client", "site-7", "org", ENDED)
    with pytest.raises(KitError) as expired:
        kit.check_valid()
    assert "the startup kit of site-7 expired on 2024-02-29" in str(expired.value)
    assert "next: `make clean WHAT=keys`, then `make up`" in str(expired.value)


def test_a_kit_is_valid_until_the_second_it_expires() -> None:
    kit = Kit(Path("kit"), "client", "site-1", "org", ENDED)
    kit.check_valid(ENDED - datetime.timedelta(seconds=1))
    with pytest.raises(KitError, match="expired"):
        kit.check_valid(ENDED)


def test_a_missing_kit_is_an_error_that_names_the_folder_and_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=f"no startup kit in {tmp_path}") as missing:
        read_kit(tmp_path)
    assert "next: `make up` provisions one" in str(missing.value)


def site(folder: Path, port: int) -> Kit:
    """A site's kit that names a server on this port."""
    write_certificates(folder / "startup", "client", "site-1")
    content = {"servers": [{"service": {"target": f"127.0.0.1:{port}", "scheme": "tcp"}}]}
    (folder / "startup" / "fed_client.json").write_text(json.dumps(content), encoding="utf-8")
    return Kit(folder, "client", "site-1", "org", ENDED)


def test_a_server_answers_when_it_lets_the_kits_certificate_through(tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener") as port:
        assert site(tmp_path / "kit", port).server_answers()
    assert not site(tmp_path / "kit", port).server_answers()


def test_a_server_of_another_root_does_not_answer(tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener", root="another") as port:
        assert not site(tmp_path / "kit", port).server_answers()


def test_a_gateway_without_its_server_is_no_answer(tmp_path: Path) -> None:
    with gateway_without_server() as (port, came):
        assert not site(tmp_path / "kit", port).server_answers()
        assert came


def test_a_port_that_accepts_and_says_nothing_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kits, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not site(tmp_path / "kit", silent.getsockname()[1]).server_answers()


@contextlib.contextmanager
def later(folder: Path, port: int) -> Iterator[None]:
    """A server that listens in 0.2 s."""
    with contextlib.ExitStack() as opened:
        timer = threading.Timer(0.2, lambda: opened.enter_context(tls_listener(folder, port)))
        timer.start()
        yield
        timer.join()


def test_a_site_waits_for_a_server_that_is_starting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    began = time.monotonic()
    with later(tmp_path / "listener", port):
        site(tmp_path / "kit", port).wait_for_server(LONG)
    assert 0.15 < time.monotonic() - began < LONG / 2


def test_a_site_whose_server_does_not_start_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    began = time.monotonic()
    site(tmp_path / "kit", port).wait_for_server(0.2)
    assert 0.15 < time.monotonic() - began < LONG / 2


def test_a_gateway_whose_server_is_starting_is_not_asked_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts every connection of an address, and lets in so many in ten seconds."""
    monkeypatch.setattr(kits, "GATEWAY_PERIOD", 0.2)
    with gateway_without_server() as (port, came):
        site(tmp_path / "kit", port).wait_for_server(0.7)
        assert 2 <= len(came) <= 5
