"""What a received message costs: no thread, and no text of its bytes; and which drivers a process loads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest
from nvflare.fuel.f3 import communicator, drivers
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.comm_config import CommConfigurator
from nvflare.fuel.f3.connection import Connection
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.drivers.driver_manager import DriverManager
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.message import MessageReceiver
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import HandshakeKeys, Types
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN, Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.f3.streaming import blob_streamer, byte_receiver, byte_streamer
from nvflare.fuel.utils.buffer_list import ConsumableBufferList

from multisite.federation import transport
from multisite.federation.transport import SharedTimer

LONG = 20.0  # no wait of these tests lasts so long unless something is broken


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
    transport.lighten_messages()
    assert byte_receiver.threading.Timer is SharedTimer
    assert byte_receiver.threading.Lock is threading.Lock


def test_a_received_payload_is_not_written_out() -> None:
    transport.lighten_messages()
    payload = ConsumableBufferList([bytes(1000), bytearray(500)])
    assert f"{payload}" == "<1500 bytes>"


def test_nvflare_receives_into_the_list_that_is_not_written_out() -> None:
    """Guards the pin: the seam is that class."""
    assert blob_streamer.ConsumableBufferList is ConsumableBufferList


LOADED = """
import sys
from nvflare.fuel.f3 import communicator
from multisite.federation import transport
transport.load_needed_drivers()
driver = communicator.driver_mgr.find_driver_class(sys.argv[1])
print(driver.__name__, communicator.driver_loaded, "aiohttp" in sys.modules)
"""


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("tcp://server:8002", "AioTcpDriver True False"),
        ("tcp://0:8002?admin_listener=true", "AioTcpDriver True False"),
        ("tcp", "TcpDriver True False"),  # the listener for a node's own jobs
        ("tcp://localhost:12826", "TcpDriver True False"),
        ("stcp://server:8002?admin_listener=true", "AioTcpDriver True False"),
        ("http", "AioHttpDriver True True"),
        ("grpc://server:8002", "GrpcDriver True True"),  # in no list of ours: NVFlare loads whatever it has
    ],
)
def test_a_process_loads_the_driver_that_its_kit_names(url: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, url], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == told


@pytest.mark.parametrize("url", ["tcp", "tcp://server:8002", "stcp://server:8002", "http://server:8002", "https"])
def test_every_driver_is_one_of_nvflares_for_that_scheme_or_speaks_the_same(url: str) -> None:
    """Guards the pin."""
    upstream = DriverManager()
    upstream.search_folder(next(iter(drivers.__path__)), drivers.__package__)
    ours, theirs = transport.NeededDrivers().find_driver_class(url), upstream.find_driver_class(url)
    assert ours is theirs or (ours, theirs) == (upstream.find_driver_class("atcp"), upstream.find_driver_class("tcp"))
    assert {"driver_mgr", "driver_loaded"} <= set(vars(communicator))


NODE = """
import sys
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.fuel.utils import fobs
from multisite.federation import transport
transport.leave_out_arrays()
model = fobs.loads(fobs.dumps(FLModel(metrics={"accuracy": 0.5})))
print(model.metrics["accuracy"], "numpy" in sys.modules)
import nvflare.app_common.decomposers.numpy_decomposers
print("numpy" in sys.modules)
"""


def test_a_node_reads_and_writes_messages_without_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", NODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0.5", "False", "True"]


@pytest.mark.parametrize(
    ("size", "chunk"), [(10, transport.SMALLEST_CHUNK), (300_000, 300_000), (5_000_000, 1 << 20), (0, 1 << 20)]
)
def test_a_message_takes_no_more_than_its_own_size(size: int, chunk: int) -> None:
    transport.lighten_messages()
    stream = blob_streamer.BlobStream(bytes(size), {})
    task = byte_streamer.TxTask(cast(CoreCell, None), 1 << 20, "channel", "topic", "target", {}, stream, False, False, False)
    assert task.chunk_size == len(task.buffer) == chunk


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
    """Runs what it is given when it is told to, in the order that it is told: threads may take any."""

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
    """NVFlare's connection manager, or ours, whose frame threads wait for the test."""

    def __init__(self, manager: type[ConnManager]) -> None:
        self.manager = manager(Endpoint("server"))
        self.threads = self.manager.frame_mgr_executor = Held()
        self.messages: list[object] = []
        self.manager.receivers[7] = cast(MessageReceiver, SimpleNamespace(process_message=lambda *one: self.messages.append(one)))
        self.peer = Peer()
        self.connection = SfmConnection(cast(Connection, self.peer), Endpoint("server"))

    def take(self, *frames: bytes) -> None:
        for frame in frames:
            self.manager.process_frame(self.connection, frame)


@pytest.mark.parametrize(("manager", "received"), [(transport.OrderedConnManager, 2), (ConnManager, 0)])
def test_a_message_that_overtakes_the_handshake_is_not_lost(manager: type[ConnManager], received: int) -> None:
    """With NVFlare's own it is: this test says when ours is needed no more."""
    server = Server(manager)
    server.take(hello(), frame_of(Types.DATA), frame_of(Types.DATA))
    server.threads.release(last_first=True)
    server.threads.release()
    assert len(server.messages) == received
    assert not server.peer.closed


def test_a_peer_that_sends_messages_before_its_handshake_is_cut_off_and_occupies_no_thread() -> None:
    server = Server(transport.OrderedConnManager)
    server.take(*[frame_of(Types.DATA)] * 5000)
    assert server.peer.closed
    assert server.threads.tasks == []
    assert server.messages == []


def test_what_a_peer_sends_while_its_handshake_is_read_is_bounded_and_goes_with_its_connection() -> None:
    server = Server(transport.OrderedConnManager)
    server.take(hello(), *[frame_of(Types.DATA)] * 5000, frame_of(Types.DATA, bytes(transport.MOST_EARLY_BYTES)))
    (kept,) = server.manager.early_frames.values()  # type: ignore[attr-defined]
    assert len(kept) == transport.MOST_EARLY_FRAMES
    assert len(server.threads.tasks) == 1
    server.manager.close_connection(server.peer)  # type: ignore[arg-type]
    assert server.manager.early_frames == {}  # type: ignore[attr-defined]


def test_after_a_refused_handshake_the_connection_lives_until_its_peer_sends_a_message() -> None:
    """Closed at once, the answer that `readiness` waits for may not have been sent yet."""
    server = Server(transport.OrderedConnManager)
    server.take(hello(""), frame_of(Types.DATA))
    server.threads.release()
    assert not server.peer.closed
    server.take(frame_of(Types.DATA))
    assert server.peer.closed
    assert server.threads.tasks == []
    assert server.messages == []
    assert server.manager.early_frames == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [transport.SMALLEST_CHUNK, 300_000, 1 << 20])
def test_no_chunk_is_so_small_that_a_receiver_warns_of_it(size: int) -> None:
    """A warning a message was nine tenths of a container's log."""
    window = CommConfigurator().get_streaming_window_size(byte_streamer.STREAM_WINDOW_SIZE)
    assert -(-window // size) + 1 <= byte_receiver.MAX_PEER_DERIVED_OUT_SEQ_CHUNKS


LARGE = """

from nvflare.fuel.f3.streaming.blob_streamer import BlobHandler
from nvflare.fuel.f3.streaming.stream_types import Stream, StreamFuture
class Declared(Stream):
    def read(self, size): raise SystemExit("it was read")
future = StreamFuture(1, {})
BlobHandler(lambda future: None).handle_blob_cb(future, Declared(int(__import__("sys").argv[1]), {}), False)
print(type(future.error).__name__ if future.error else "accepted")
"""


@pytest.mark.parametrize(("size", "answer"), [(300 << 20, "BlobSizeError"), (5 << 20, "accepted")])
def test_a_message_larger_than_a_result_may_be_is_refused_by_its_declared_size(size: int, answer: str) -> None:
    """NVFlare's own setting, which the server's node makes for itself and its jobs (`node.py`)."""
    environment = {**os.environ, "NVFLARE_STREAMING_MAX_BLOB_SIZE": str(256 << 20)}
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(size)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip().splitlines()[-1:] == [answer], done.stderr
