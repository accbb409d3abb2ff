"""What glibc's allocator keeps of the memory that a process has freed (`malloc.h`, mallopt(3), malloc_trim(3)).

NVFlare works in threads, and glibc gives a thread's freed memory back at once: a step of the default network had 2,300 page faults, a
twentieth of its time, and a round of a small one 10,000 on the server, whose every message begins with an empty MB
(`nvflare/fuel/f3/streaming/byte_streamer.py:241`). So it is kept. But what lies below a block that is still in use would be kept for
ever: a server's parent held 40 MiB after a job of eight sites. So a server gives back every second what nobody has used.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1
LARGEST_MMAP_THRESHOLD = 1 << 25
KEPT_FOR_MESSAGES, KEPT_FOR_TRAINING = 1 << 22, 1 << 29  # bytes that are free at most before some go back to the system
BUSY_SECONDS, IDLE_SECONDS = 1.0, 5.0
LAST_LOOKS = 3  # a job's results are brought when its process has ended


def _libc(name: str) -> Callable[..., Any]:
    return getattr(ctypes.CDLL(None), name, lambda *arguments: 0)  # another libc than glibc has none of these


def keep_freed(most: int) -> None:
    """Before a thread starts: what a message or a training step frees stays with the process, and its forks, for the next one.

    Args:
        most: bytes that are kept.
    """
    mallopt = _libc("mallopt")
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD), (M_TRIM_THRESHOLD, most)):
        mallopt(parameter, value)


def give_back_while(busy: Callable[[], bool]) -> None:
    """Starts a thread that gives back what is free every BUSY_SECONDS, and at the next looks when the process is busy no longer.

    What messages leave behind points to itself: the collector finds it, and would come minutes later. A look takes 4 ms.

    Args:
        busy: whether there is work that allocates; looked at every IDLE_SECONDS while there is none.
    """

    def run() -> None:
        trim, left = _libc("malloc_trim"), 0
        while True:
            left = LAST_LOOKS if busy() else left - 1
            if left > 0:
                gc.collect()
                trim(0)
            time.sleep(BUSY_SECONDS if left == LAST_LOOKS else IDLE_SECONDS)

    threading.Thread(target=run, daemon=True, name="give-back-memory").start()
