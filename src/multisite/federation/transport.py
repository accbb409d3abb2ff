"""NVFlare 2.9.0's transport, less what nobody needs of it: a thread and a text for every message, every driver, NumPy."""

from __future__ import annotations

import importlib
import logging
import math
import sched
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from nvflare.app_common.decomposers import common_decomposers
from nvflare.fuel.f3 import communicator, drivers
from nvflare.fuel.f3.drivers.driver import Driver
from nvflare.fuel.f3.drivers.driver_manager import DriverManager
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.prefix import Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.f3.streaming import byte_receiver, byte_streamer
from nvflare.fuel.f3.streaming.stream_types import Stream
from nvflare.fuel.utils.buffer_list import ConsumableBufferList

# The drivers of the schemes: module in `nvflare/fuel/f3/drivers`, and class. Between hosts TCP goes by asyncio. NVFlare's other driver
# accepts a connection when the TLS handshake of the one before has ended (a client that says nothing keeps every site out), and reads
# and writes one TLS connection from two threads. It is the faster one between the processes of a container, where there is no TLS.
# The two speak the same; the name `atcp` is refused by NVFlare's own clients (`nvflare/fuel/utils/url_utils.py:15`).
THREADED_TCP, TCP, HTTP = ("tcp_driver", "TcpDriver"), ("aio_tcp_driver", "AioTcpDriver"), ("aio_http_driver", "AioHttpDriver")
DRIVERS = {"tcp": TCP, "stcp": TCP, "http": HTTP, "https": HTTP}
LOOPBACK = ("localhost", "127.0.0.1", None)  # NVFlare names no host for the listener of a node's own jobs
MOST_EARLY_FRAMES, MOST_EARLY_BYTES = 64, 1 << 22  # of a connection whose handshake is being read: milliseconds
SMALLEST_CHUNK = 1 << 17  # a receiver warns of chunks of which its window of 64 MiB has room for more than 1,023
ARRAYS = "nvflare.app_common.decomposers.numpy_decomposers"

logger = logging.getLogger("multisite.transport")


class SharedTimer:
    """Stands in for `threading.Timer`: one thread for all of them."""

    _scheduler = sched.scheduler(time.monotonic)
    _start = threading.Lock()
    _thread: threading.Thread | None = None
    _changed = threading.Event()
    _wakes_at = math.inf
    daemon = True

    def __init__(self, interval: float, function: Callable[[], None]) -> None:
        """
        Args:
            interval: seconds from `start` to the call.
            function: called once, unless `cancel` comes first.
        """
        self._interval, self._function = interval, function
        self._event: sched.Event | None = None

    def start(self) -> None:
        """Begins to count."""
        cls = SharedTimer
        with cls._start:
            if cls._thread is None:
                cls._thread = threading.Thread(target=cls._run, daemon=True, name="timers")
                cls._thread.start()
        self._event = cls._scheduler.enter(self._interval, 0, self._call)
        if self._event.time < cls._wakes_at:
            cls._changed.set()

    def cancel(self) -> None:
        """Forgets the call; nothing when it was made."""
        try:
            if self._event is not None:
                self._scheduler.cancel(self._event)
        except ValueError:
            pass  # its time has come

    def _call(self) -> None:
        try:
            self._function()
        except Exception:
            logger.exception("a timer's call failed")

    @classmethod
    def _run(cls) -> None:
        while True:
            cls._wakes_at = math.inf  # what is entered from here on wakes this thread, until it knows its next call
            cls._changed.clear()
            delay = cls._scheduler.run(blocking=False)
            if delay is not None:
                cls._wakes_at = time.monotonic() + delay
            cls._changed.wait(delay)


class FittingTxTask(byte_streamer.TxTask):
    """NVFlare's, of a message that is smaller than a chunk, with a chunk of the message's size."""

    def __init__(
        self, cell: Any, chunk_size: int, channel: str, topic: str, target: str, headers: Any, stream: Stream, *more: Any
    ) -> None:
        if size := stream.get_size():  # 0: nobody knows yet
            chunk_size = min(chunk_size, max(size, SMALLEST_CHUNK))
        super().__init__(cell, chunk_size, channel, topic, target, headers, stream, *more)


def lighten_messages() -> None:
    """In every process, before it sends or receives a message. None is lost, see `OrderedConnManager`.

    A small one takes little memory: `nvflare/fuel/f3/streaming/byte_streamer.py:241` makes a chunk of 1 MB for each, which stays until
    the garbage collector runs.

    What was received is forgotten by one thread: `nvflare/fuel/f3/streaming/byte_receiver.py:569` starts a `threading.Timer` of 60 s
    for every message, and 20 messages a second are 1,200 threads, beyond the limit that keeps a container from taking its host down.

    Its bytes are not written out: `nvflare/fuel/f3/cellnet/cell.py:96` formats the whole payload for a line of debug that nobody
    sees, about three characters a byte.
    """
    byte_streamer.TxTask = FittingTxTask
    communicator.ConnManager = OrderedConnManager
    byte_receiver.threading = SimpleNamespace(**{**vars(threading), "Timer": SharedTimer})
    ConsumableBufferList.__repr__ = _length  # type: ignore[method-assign]


def _length(buffers: ConsumableBufferList) -> str:
    return f"<{sum(map(len, buffers))} bytes>"


class OrderedConnManager(ConnManager):
    """NVFlare's, which loses no message that comes right after the handshake.

    `nvflare/fuel/f3/sfm/conn_manager.py:348` answers a HELLO before it knows whose it is, and its frames are read by several threads: the
    peer's first message may be read before that is known, and is dropped with an error. A site's challenge to the server waited 30 s
    then, and the site started again. So what comes that early is kept until the handshake has been read; no thread waits for it. A peer
    that sends a message before its handshake is no NVFlare, or no friend: its connection is closed.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.early_frames: dict[str, list[Any]] = {}  # connection -> its frames after a handshake that is being read

    def close_connection(self, connection: Any) -> None:
        """What came too early goes with its connection."""
        self.early_frames.pop(connection.name, None)
        super().close_connection(connection)

    def process_frame(self, sfm_conn: SfmConnection, frame: Any) -> None:
        """NVFlare calls this in the order in which the frames came; the threads that read them do not keep it."""
        if sfm_conn.sfm_endpoint is None:
            if Prefix.from_bytes(frame).type in (Types.HELLO, Types.READY):
                self.early_frames.setdefault(sfm_conn.get_name(), [])
            elif self._is_kept(sfm_conn, frame):
                return
        super().process_frame(sfm_conn, frame)

    def _is_kept(self, sfm_conn: SfmConnection, frame: Any) -> bool:
        """Whether a frame is dealt with for now: kept or dropped; False when its peer has become known."""
        with self.lock:
            if sfm_conn.sfm_endpoint is not None:
                return False
            kept = self.early_frames.get(sfm_conn.get_name())
            if kept is not None:
                if len(kept) < MOST_EARLY_FRAMES and sum(map(len, kept)) + len(frame) <= MOST_EARLY_BYTES:
                    kept.append(frame)  # what is dropped beyond that, its sender sends again
                return True
        logger.warning("closed %s: it sent a message before its handshake", sfm_conn.conn)
        sfm_conn.conn.close()
        return True

    def update_endpoint(self, sfm_conn: SfmConnection, data: dict[str, Any]) -> None:
        """NVFlare's; what was kept is read when it is known whose it is, and dropped when that can't be.

        Then the connection stays: the answer to the HELLO may still be on its way, and `readiness` waits for one. A message closes it.

        Raises:
            CommError: see NVFlare's.
        """
        try:
            super().update_endpoint(sfm_conn, data)
        finally:
            with self.lock:
                kept = self.early_frames.pop(sfm_conn.get_name(), [])
        for frame in kept:
            super().process_frame(sfm_conn, frame)


class NeededDrivers(DriverManager):
    """NVFlare's, which loads a driver when it is asked for it; for a scheme that is not in DRIVERS, every driver there is."""

    def find_driver_class(self, scheme_or_url: str) -> type[Driver] | None:
        """The driver for a URL, or for a scheme alone."""
        url = urlsplit(scheme_or_url if ":" in scheme_or_url else f"{scheme_or_url}:")
        if url.scheme in DRIVERS:
            module, name = THREADED_TCP if url.scheme == "tcp" and url.hostname in LOOPBACK else DRIVERS[url.scheme]
            driver: type[Driver] = getattr(importlib.import_module(f"{drivers.__package__}.{module}"), name)
            return driver
        if not self.drivers:
            communicator.load_comm_drivers()
        found: type[Driver] | None = super().find_driver_class(scheme_or_url)
        return found


def leave_out_arrays() -> None:
    """In a node: it reads no message with an array in it, for these go from one job's process to another.

    `nvflare/app_common/decomposers/common_decomposers.py:62` registers what reads and writes a message's types, and leaves out what can't
    be imported. Arrays cost an idle container NumPy, 7 MiB.
    """
    sys.modules[ARRAYS] = None  # type: ignore[assignment] # an import of it fails
    common_decomposers.register()
    del sys.modules[ARRAYS]


def load_needed_drivers() -> None:
    """In every process, before it connects.

    `nvflare/fuel/f3/communicator.py:39` imports every driver that NVFlare has, aiohttp's and gRPC's with them: 0.3 s of a core and 11 MiB,
    where sites wait for nothing else.
    """
    if not isinstance(communicator.driver_mgr, NeededDrivers):
        communicator.driver_mgr, communicator.driver_loaded = NeededDrivers(), True
