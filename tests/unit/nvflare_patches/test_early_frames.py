"""`nvflare_patches/early_frames.py`: NVFlare's own connection manager, with the patch and without it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest
from nvflare.fuel.f3.connection import Connection
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.message import MessageReceiver
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import HandshakeKeys, Types
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN, Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection

from multisite.nvflare_patches import early_frames


class Peer:
    """A connection from a site."""

    name = "CN1"
    connector = SimpleNamespace(mode=Mode.PASSIVE, params={})

    def __init__(self) -> None:
        self.closed = False

    def get_conn_properties(self) -> dict[str, str]:
        return {}

    def send_frame(self, frame: bytes) -> None:
        """The server's answer to a handshake."""

    def close(self) -> None:
        self.closed = True


def frame_of(kind: int, payload: bytes = b"") -> bytes:
    frame = bytearray(PREFIX_LEN)
    Prefix(PREFIX_LEN + len(payload), 0, kind, 0, 0, 7, 0, 0).to_buffer(frame, 0)
    return bytes(frame) + payload


def hello(name: str = "site-1") -> bytes:
    return frame_of(Types.HELLO, msgpack.packb({HandshakeKeys.ENDPOINT_NAME: name}))


class Held(ThreadPoolExecutor):
    """Runs what it is given when the test releases it, in the order that the test chooses: threads may take any."""

    def __init__(self) -> None:
        super().__init__(1)
        self.tasks: list[Callable[[], object]] = []

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **more: Any) -> Any:
        self.tasks.append(lambda: task(*arguments, **more))

    def release(self, last_first: bool = False) -> None:
        tasks, self.tasks = self.tasks[:: -1 if last_first else 1], []
        for task in tasks:
            task()


class Server:
    """NVFlare's connection manager, whose frame threads wait for the test."""

    def __init__(self) -> None:
        self.manager = ConnManager(Endpoint("server"))
        self.threads = self.manager.frame_mgr_executor = Held()
        self.messages: list[object] = []
        self.manager.receivers[7] = cast(MessageReceiver, SimpleNamespace(process_message=lambda *one: self.messages.append(one)))
        self.peer = Peer()
        self.connection = SfmConnection(cast(Connection, self.peer), Endpoint("server"))

    def take(self, *frames: bytes) -> None:
        for frame in frames:
            self.manager.process_frame(self.connection, frame)


@pytest.mark.parametrize(("setting", "received"), [("early_frames", 2), ("none", 0)])
def test_a_message_that_overtakes_the_handshake_is_not_lost(patched: Callable[[str], None], setting: str, received: int) -> None:
    """Without the patch it is: this test says when the patch is needed no more."""
    patched(setting)
    server = Server()
    server.take(hello(), frame_of(Types.DATA), frame_of(Types.DATA))
    server.threads.release(last_first=True)
    server.threads.release()
    assert len(server.messages) == received
    assert not server.peer.closed


def test_a_peer_that_sends_messages_before_its_handshake_is_cut_off_and_occupies_no_thread(patched: Callable[[str], None]) -> None:
    patched("early_frames")
    server = Server()
    server.take(*[frame_of(Types.DATA)] * 5000)
    assert server.peer.closed
    assert server.threads.tasks == []
    assert server.messages == []


def test_what_a_peer_sends_while_its_handshake_is_read_is_bounded(patched: Callable[[str], None]) -> None:
    patched("early_frames")
    server = Server()
    server.take(hello(), *[frame_of(Types.DATA)] * 5000, frame_of(Types.DATA, bytes(early_frames.MOST_BYTES)))
    assert len(server.connection.early_frames) == early_frames.MOST_FRAMES
    assert len(server.threads.tasks) == 1


def test_after_a_refused_handshake_the_connection_lives_until_its_peer_sends_a_message(patched: Callable[[str], None]) -> None:
    """Closed at once, the answer that `readiness` waits for may not have been sent yet."""
    patched("early_frames")
    server = Server()
    server.take(hello(""), frame_of(Types.DATA))
    server.threads.release()
    assert not server.peer.closed
    server.take(frame_of(Types.DATA))
    assert server.peer.closed
    assert server.threads.tasks == []
    assert server.messages == []
    assert not hasattr(server.connection, "early_frames")
