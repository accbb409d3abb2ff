"""Whether the server lets anybody in: TLS on its port, and the first frame of NVFlare's protocol answered."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from types import SimpleNamespace
from typing import cast

import aiohttp
from nvflare.fuel.f3.comm_error import CommError
from nvflare.fuel.f3.connection import Connection
from nvflare.fuel.f3.drivers.aio_http_driver import WS_PATH
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.sfm import conn_manager
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.prefix import Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection

from multisite.provisioning.kit import Kit

ANSWER_SECONDS = 5.0
SOURCE = "127.0.0.2"  # loopback too, and nobody else's: by it the log knows these connections
CONNECTION = re.compile(r"\bCN\d+\b")


class OwnConnections(logging.Filter):
    """Keeps what NVFlare says of the check's own connections, three lines each, out of the log."""

    def __init__(self, source: str = SOURCE) -> None:
        super().__init__()
        self._source = source
        self._names: deque[str] = deque(maxlen=16)

    def filter(self, record: logging.LogRecord) -> bool:
        """logging's filter seam."""
        message = record.getMessage()
        name = CONNECTION.search(message)
        if name is None:
            return True
        if f"<= {self._source}:" in message:
            self._names.append(name[0])
        return name[0] not in self._names


def hello() -> bytes:
    """The first frame of NVFlare's protocol, as `SfmConnection` writes it, of a peer without a name."""
    frames: list[bytes] = []
    SfmConnection(cast(Connection, SimpleNamespace(send_frame=frames.append)), Endpoint("")).send_handshake(Types.HELLO)
    return bytes(frames[0])


async def _is_answered(kit: Kit) -> bool:
    host, port = kit.server_address
    connector = aiohttp.TCPConnector(local_addr=(SOURCE, 0), ssl=kit.tls())
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(f"wss://{host}:{port}/{WS_PATH}") as connection,
    ):
        await connection.send_bytes(hello())
        answer = await connection.receive_bytes()
        return bool(Prefix.from_bytes(answer).type == Types.READY)


def lets_in(kit: Kit) -> bool:
    """Whether a peer with a certificate gets through TLS, and NVFlare's HELLO is answered in ANSWER_SECONDS.

    The HELLO names no endpoint, so NVFlare (`nvflare/fuel/f3/sfm/conn_manager.py:356`) answers it and then drops it: nobody is entered
    into a table. It is answered by the threads that read every site's frames: when these are stuck, it is not. Where the scheme is
    `grpc` TLS alone is looked at.

    Args:
        kit: the server's own.
    """
    if kit.scheme != "http":
        return kit.server_answers()
    try:
        return asyncio.run(_is_answered(kit))
    except (OSError, TypeError, ValueError, TimeoutError, aiohttp.ClientError, CommError):
        return False


def keep_out_of_the_log() -> None:
    """In the server's process: its check of itself is in no log."""
    conn_manager.log.addFilter(OwnConnections())
