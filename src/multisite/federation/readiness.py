"""Whether the server lets anybody in: TLS on its port, and the first frame of NVFlare's protocol answered."""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
from collections import deque
from typing import cast

from nvflare.fuel.f3.comm_error import CommError
from nvflare.fuel.f3.connection import Connection
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.sfm import conn_manager
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN, Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection

from multisite.federation.kit import Kit

ANSWER_SECONDS = 5.0
SOURCE = "127.0.0.2"  # loopback too, and nobody else's: by it the log knows these connections
FRAMED = ("tcp",)  # on the other schemes NVFlare's frames travel inside another protocol: there TLS alone is looked at
CONNECTION = re.compile(r"\bCN\d+\b")


class OwnConnections(logging.Filter):
    """Keeps what NVFlare says of the check's own connections, three lines each, out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._names: deque[str] = deque(maxlen=16)

    def filter(self, record: logging.LogRecord) -> bool:
        """logging's filter seam."""
        message = record.getMessage()
        name = CONNECTION.search(message)
        if name is None:
            return True
        if f"<= {SOURCE}:" in message:
            self._names.append(name[0])
        return name[0] not in self._names


class _Frames:
    """As much of a connection as NVFlare's handshake needs."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.send_frame = connection.sendall


def lets_in(kit: Kit) -> bool:
    """Whether a peer with a certificate gets through TLS, and NVFlare's HELLO is answered in ANSWER_SECONDS.

    The HELLO names no endpoint, so NVFlare (`nvflare/fuel/f3/sfm/conn_manager.py:356`) answers it and then drops it: nobody is entered
    into a table. It is answered by the threads that read every site's frames: when these are stuck, it is not.

    Args:
        kit: the server's own.
    """
    try:
        with kit.connect(ANSWER_SECONDS, SOURCE) as connection:
            if kit.scheme not in FRAMED:
                return True
            SfmConnection(cast(Connection, _Frames(connection)), Endpoint("")).send_handshake(Types.HELLO)
            with connection.makefile("rb") as answer:
                prefix = Prefix.from_bytes(answer.read(PREFIX_LEN))
                answer.read(prefix.length - PREFIX_LEN)  # what is left unread would be a reset, and an error in the server's log
            with contextlib.suppress(OSError):
                connection.unwrap()
            return bool(prefix.type == Types.READY)
    except (OSError, CommError):
        return False


def keep_out_of_the_log() -> None:
    """In the server's process: its check of itself is in no log."""
    conn_manager.log.addFilter(OwnConnections())
