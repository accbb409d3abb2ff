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
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.private.fed.client.communicator import Communicator

from multisite.node import main as node
from multisite.node.engine import ENGINE, NodeWatch, heartbeat_answered
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


def beat(code: str) -> bool:
    """One heartbeat of NVFlare's own client, whose request ends with `code`; gives whether NVFlare says that it is over."""
    events = []

    class ClientEngine:
        def new_context(self) -> FLContext:
            return FLContext()

        def get_all_job_ids(self) -> list[str]:
            return []

        def fire_event(self, event: str, fl_ctx: FLContext) -> None:
            NodeWatch().handle_event(event, fl_ctx)
            events.append(event)
            communicator.heartbeat_done = event == EventType.AFTER_CLIENT_HEARTBEAT

    def send_request(**_: Any) -> Message:
        reply = make_reply(code, error="why")
        if code != ReturnCode.TIMEOUT:
            heartbeat_answered(reply)
        communicator.heartbeat_done = True
        return reply

    communicator = Communicator(
        client_config={"client_name": "site-1"}, cell=SimpleNamespace(send_request=send_request), client_register_interval=1
    )
    communicator.send_heartbeat([], "project", "token", "", "site-1", ClientEngine(), 0)
    return EventType.AFTER_CLIENT_HEARTBEAT in events


def unanswered_for_long() -> None:
    """A heartbeat was begun so long ago that its answer should be there."""
    ENGINE.unanswered = time.monotonic() - node.ANSWER_SECONDS


def test_a_heartbeat_that_nobody_answers_is_none_that_the_server_has_accepted() -> None:
    start("a-token", heartbeat_ago=100)
    assert beat(ReturnCode.TIMEOUT), "NVFlare's event comes all the same"
    assert ENGINE.unanswered is not None
    assert time.monotonic() - ENGINE.heartbeat > 90


def test_a_heartbeat_that_the_server_refuses_is_none_that_it_has_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvflare.private.fed.client.communicator.time.sleep", lambda seconds: None)
    start("a-token", heartbeat_ago=100)
    assert not beat(ReturnCode.UNAUTHENTICATED)
    assert ENGINE.unanswered is not None


def test_a_heartbeat_that_the_server_accepts_makes_the_site_ready() -> None:
    start("a-token", heartbeat_ago=100)
    assert beat(ReturnCode.OK)
    assert ENGINE.unanswered is None
    assert time.monotonic() - ENGINE.heartbeat < 10


def test_a_site_registers_again_when_another_key_is_the_servers(kit: Kit, tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener") as port:
        serves(kit, "127.0.0.1", port)
        ENGINE.server_key = kit.wait_for_server()
        start("a-token")
    with tls_listener(tmp_path / "renewed", port):
        assert not node.must_register_again(kit), "no heartbeat is unanswered"
        beat(ReturnCode.TIMEOUT)
        assert not node.must_register_again(kit), "the answer may be under way"
        unanswered_for_long()
        assert node.must_register_again(kit)


def test_a_site_whose_server_is_back_with_the_same_key_does_not_register_again(kit: Kit, tmp_path: Path) -> None:
    with tls_listener(tmp_path / "listener") as port:
        serves(kit, "127.0.0.1", port)
        ENGINE.server_key = kit.wait_for_server()
        start("a-token")
        unanswered_for_long()
        assert not node.must_register_again(kit)


def test_a_site_whose_server_is_dead_behind_its_gateway_does_not_register_again(kit: Kit) -> None:
    with gateway_without_server() as (port, came):
        serves(kit, "127.0.0.1", port)
        start("a-token")
        ENGINE.server_key = b"a key"
        unanswered_for_long()
        assert not node.must_register_again(kit)
        assert came


def test_a_site_that_has_not_seen_its_servers_key_takes_the_first_one(kit: Kit, tmp_path: Path) -> None:
    """It came before the server."""
    with tls_listener(tmp_path / "listener") as port:
        serves(kit, "127.0.0.1", port)
        start("a-token")
        unanswered_for_long()
        assert not node.must_register_again(kit)
        assert ENGINE.server_key == kit.server_key()


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
