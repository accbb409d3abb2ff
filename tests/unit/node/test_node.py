"""The node process: what it makes of a startup kit, and when it calls itself ready."""

from __future__ import annotations

import datetime
import json
import socket
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext

from multisite.node import main as node
from multisite.node.engine import ENGINE, NodeWatch
from multisite.provisioning import policy
from multisite.provisioning.kit import Kit
from tests.unit.certificates import gateway_without_server, tls_listener, write_certificates
from tests.unit.nvflare_authorization import is_allowed, may_bring_code

ROLES = ("project_admin", "lead")
PERMISSIONS = {"format_version": "1.0", "permissions": {role: {"byoc": "none", "view": "any"} for role in (*ROLES, "member")}}


def make_kit(folder: Path, role: str = "client") -> Kit:
    """A kit with the files that the node reads."""
    (folder / "startup").mkdir(parents=True)
    (folder / "local").mkdir()
    write_certificates(folder / "startup", role, "site-1")
    default = files("nvflare.fuel.utils").joinpath("log_config.json").read_text(encoding="utf-8")
    (folder / "local" / "log_config.json.default").write_text(default, encoding="utf-8")
    (folder / "local" / policy.AUTHORIZATION).write_text(json.dumps(PERMISSIONS), encoding="utf-8")
    return Kit(folder, role, "site-1", "org", datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "kit")


@pytest.fixture(autouse=True)
def _no_engine() -> Iterator[None]:
    before = dict(vars(ENGINE))
    ENGINE.value = None
    yield
    vars(ENGINE).update(before)


def test_the_kit_is_copied_to_where_nvflare_looks_for_it(kit: Kit, workspace: Path) -> None:
    node.prepare_workspace(kit, workspace, {})
    assert (workspace / "startup" / "rootCA.pem").read_bytes() == (kit.folder / "startup" / "rootCA.pem").read_bytes()
    assert not (workspace / "startup").is_symlink()
    assert read(workspace / "local" / policy.AUTHORIZATION) == PERMISSIONS


def test_a_new_kit_replaces_the_old_one_and_jobs_stay(kit: Kit, workspace: Path) -> None:
    (workspace / "startup").mkdir()
    (workspace / "startup" / "old.key").write_text("old", encoding="utf-8")
    (workspace / "jobs").mkdir()
    node.prepare_workspace(kit, workspace, {})
    assert {path.name for path in (workspace / "startup").iterdir()} == {"rootCA.pem", "client.crt", "client.key"}
    assert (workspace / "jobs").is_dir()


def test_the_kit_itself_stays_as_it_is(kit: Kit, workspace: Path) -> None:
    before = {path: path.read_bytes() for path in kit.folder.rglob("*") if path.is_file()}
    node.prepare_workspace(kit, workspace, {"LOG": "json", "ALLOW_CUSTOM_CODE": "yes"})
    assert {path: path.read_bytes() for path in kit.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("environment", [{}, {"LOG": ""}, {"LOG": "plain"}])
def test_the_log_is_plain_unless_another_form_is_chosen(kit: Kit, workspace: Path, environment: dict[str, str]) -> None:
    node.prepare_workspace(kit, workspace, environment)
    console = read(workspace / "local" / "log_config.json")["handlers"]["consoleHandler"]
    assert "plainFilter" in console["filters"]


def test_log_chooses_the_consoles_form(kit: Kit, workspace: Path) -> None:
    node.prepare_workspace(kit, workspace, {"LOG": "json"})
    assert read(workspace / "local" / "log_config.json")["handlers"]["consoleHandler"]["formatter"] == "jsonFormatter"
    node.prepare_workspace(kit, workspace, {"LOG": "detail"})
    assert read(workspace / "local" / "log_config.json")["handlers"]["consoleHandler"]["formatter"] == "consoleFormatter"


def test_an_unknown_log_mode_is_an_error_that_names_it(kit: Kit, workspace: Path) -> None:
    with pytest.raises(ValueError, match="LOG=loud"):
        node.prepare_workspace(kit, workspace, {"LOG": "loud"})


def test_custom_code_is_allowed_when_the_site_says_so(kit: Kit, workspace: Path) -> None:
    node.prepare_workspace(kit, workspace, {"ALLOW_CUSTOM_CODE": "yes"})
    file = workspace / "local" / policy.AUTHORIZATION
    assert {role for role in (*ROLES, "member") if may_bring_code(file, role)} == set(ROLES)
    assert is_allowed(file, "lead", "view")
    assert not is_allowed(file, "lead", "shell_commands")


@pytest.mark.parametrize("value", ["", "no", "false", "1", "YES please"])
def test_custom_code_is_refused_for_any_other_value(kit: Kit, workspace: Path, value: str) -> None:
    node.prepare_workspace(kit, workspace, {"ALLOW_CUSTOM_CODE": value})
    assert not [role for role in ROLES if may_bring_code(workspace / "local" / policy.AUTHORIZATION, role)]


def test_taking_the_switch_back_refuses_custom_code_again(kit: Kit, workspace: Path) -> None:
    for value in ("yes", "no"):
        node.prepare_workspace(kit, workspace, {"ALLOW_CUSTOM_CODE": value})
    assert not [role for role in ROLES if may_bring_code(workspace / "local" / policy.AUTHORIZATION, role)]


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_participant_whose_engine_has_not_started_is_not_ready(tmp_path: Path, role: str) -> None:
    assert not node.is_ready(make_kit(tmp_path / "other", role))


def serves(kit: Kit, host: str, port: int) -> None:
    """Writes the server's address into the kit, as provisioning does."""
    config = "fed_server.json" if kit.role == "server" else "fed_client.json"
    content = {"servers": [{"service": {"target": f"{host}:{port}", "scheme": "http"}}]}
    (kit.folder / "startup" / config).write_text(json.dumps(content), encoding="utf-8")


def closed_port() -> int:
    """One on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def start(token: str | None, heartbeat_ago: float = 0.0) -> None:
    """An engine that has started, and got its last heartbeat accepted so many seconds ago."""
    ENGINE.set(SimpleNamespace(client=SimpleNamespace(token=token)))
    ENGINE.heartbeat = time.monotonic() - heartbeat_ago


@pytest.mark.parametrize(("token", "ready"), [("", False), (None, False), ("a-token", True)])
def test_a_site_is_ready_once_it_is_registered(kit: Kit, token: str | None, ready: bool) -> None:
    start(token)
    assert node.is_ready(kit) is ready


@pytest.mark.parametrize(("seconds", "ready"), [(-1.0, True), (1.0, False)])
def test_a_site_is_ready_while_its_heartbeats_are_accepted(kit: Kit, seconds: float, ready: bool) -> None:
    start("a-token", heartbeat_ago=node.HEARTBEAT_SECONDS + seconds)
    assert node.is_ready(kit) is ready


def beat(times: int) -> None:
    """Heartbeats that nobody accepts, by NVFlare's events."""
    for _ in range(times):
        NodeWatch().handle_event(EventType.BEFORE_CLIENT_HEARTBEAT, FLContext())


def test_a_site_whose_heartbeats_are_refused_registers_again_if_the_server_answers(kit: Kit, tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener") as port:
        serves(kit, "127.0.0.1", port)
        start("a-token")
        assert not node.must_register_again(kit)
        beat(2)
        assert not node.must_register_again(kit), "both may have been begun before the server was there"
        beat(1)
        assert not node.must_register_again(kit), "this one may be under way"
        beat(1)
        assert node.must_register_again(kit)
    assert not node.must_register_again(kit)


def test_a_site_whose_server_is_dead_behind_its_gateway_does_not_register_again(kit: Kit) -> None:
    with gateway_without_server() as (port, came):
        serves(kit, "127.0.0.1", port)
        start("a-token")
        for _ in range(3):
            beat(5)
            assert not node.must_register_again(kit)
        assert came


def test_a_site_whose_link_is_back_is_given_time_for_a_heartbeat(kit: Kit, tmp_path: Path) -> None:
    port = closed_port()
    serves(kit, "127.0.0.1", port)
    start("a-token")
    beat(20)
    assert not node.must_register_again(kit)
    with tls_listener(tmp_path / "listener", port):
        assert not node.must_register_again(kit)
        beat(1)
        assert not node.must_register_again(kit)
        NodeWatch().handle_event(EventType.AFTER_CLIENT_HEARTBEAT, FLContext())
        beat(1)
        assert not node.must_register_again(kit)


def test_a_site_that_has_not_started_does_not_register_again(kit: Kit, tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener") as port:
        serves(kit, "127.0.0.1", port)
        assert kit.server_answers()
        assert not node.must_register_again(kit)


@pytest.mark.parametrize("lets_in", [True, False])
def test_a_server_is_ready_while_it_lets_others_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lets_in: bool) -> None:
    """What that is, see test_readiness.py."""
    monkeypatch.setattr(node.readiness, "lets_in", lambda kit: lets_in)
    kit = make_kit(tmp_path / "server", "server")
    ENGINE.set(SimpleNamespace())
    assert node.is_ready(kit) is lets_in
    assert not node.must_register_again(kit)


def test_without_a_kit_the_node_is_exit_status_2_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node, "KIT", tmp_path / "absent")
    monkeypatch.setattr(node, "READY", tmp_path / "ready")
    (tmp_path / "ready").touch()
    assert node.main() == 2
    message = capsys.readouterr().err
    assert message.startswith(f"node: no startup kit in {tmp_path / 'absent'}")
    assert "next: `make up`" in message
    assert not (tmp_path / "ready").exists()
