"""A message that comes right after a connection's handshake is not lost, and one that comes before it holds no thread.

Upstream: `nvflare/fuel/f3/sfm/conn_manager.py:341` (`process_frame_task`) answers a HELLO before it knows whose it is, and the threads that
read a connection's frames take them in any order: the peer's first message may be read before its sender is known, and is dropped with an
error. A site's first message to the server is then waited for in vain for 30 s, and the site starts again.

So what comes that early is kept until the handshake has been read. A peer that sends a message before any handshake speaks another
protocol: its connection is closed.
"""

from __future__ import annotations

import logging
from typing import Any

from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.prefix import Prefix

MOST_FRAMES, MOST_BYTES = 64, 1 << 22  # of a connection whose handshake is being read, which takes milliseconds
MANAGER = "nvflare.fuel.f3.sfm.conn_manager:ConnManager"
UPSTREAM = {
    f"{MANAGER}.process_frame": "c5e7466976828311",
    f"{MANAGER}.process_frame_task": "fd26a42a36b2f004",
    f"{MANAGER}.update_endpoint": "a52c5747b52fac71",
}

logger = logging.getLogger("multisite.patches")
_process_frame, _update_endpoint = ConnManager.process_frame, ConnManager.update_endpoint


def process_frame(self: Any, sfm_conn: Any, frame: Any) -> None:
    """NVFlare calls this in the order in which the frames came; the threads that it gives them to do not keep it."""
    if sfm_conn.sfm_endpoint is None:
        if Prefix.from_bytes(frame).type in (Types.HELLO, Types.READY):
            with self.lock:
                sfm_conn.early_frames = getattr(sfm_conn, "early_frames", [])
        elif _is_kept(self, sfm_conn, frame):
            return
    _process_frame(self, sfm_conn, frame)


def _is_kept(self: Any, sfm_conn: Any, frame: Any) -> bool:
    """Whether a frame is dealt with for now: kept or dropped; False when its peer has become known."""
    with self.lock:
        if sfm_conn.sfm_endpoint is not None:
            return False
        kept = getattr(sfm_conn, "early_frames", None)
        if kept is not None:
            if len(kept) < MOST_FRAMES and sum(map(len, kept)) + len(frame) <= MOST_BYTES:
                kept.append(frame)  # what is dropped beyond that, its sender sends again
            return True
    logger.warning("closed %s: it sent a message before its handshake", sfm_conn.conn)
    sfm_conn.conn.close()
    return True


def update_endpoint(self: Any, sfm_conn: Any, data: dict[str, Any]) -> None:
    """NVFlare's; what was kept is read when it is known whose it is, and dropped when that can't be.

    Then the connection stays open: the answer to the HELLO may still be on its way. The next message closes it.

    Raises:
        CommError: see NVFlare's.
    """
    try:
        _update_endpoint(self, sfm_conn, data)
    finally:
        with self.lock:
            kept = sfm_conn.__dict__.pop("early_frames", [])
    for frame in kept:
        _process_frame(self, sfm_conn, frame)


def apply() -> None:
    """In every process."""
    ConnManager.process_frame, ConnManager.update_endpoint = process_frame, update_endpoint
