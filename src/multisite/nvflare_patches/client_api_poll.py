"""A site's training script and its executor look for each other's result every 0.02 s, not every 0.5 s.

Upstream: `_RESULT_POLL_INTERVAL`, `nvflare/app_common/executors/client_api/in_process_backend.py:65`, a private constant without a
setting, which `execute` there and `__receive` in `nvflare/client/in_process/api.py:150` sleep: a second of every round.
"""

from __future__ import annotations

from nvflare.app_common.executors.client_api import in_process_backend

POLL_SECONDS = 0.02
BACKEND = "nvflare.app_common.executors.client_api.in_process_backend:InProcessBackend"
UPSTREAM = {f"{BACKEND}.initialize": "5dd49820430f8b60", f"{BACKEND}.execute": "ddfaab6a73c44bd8"}


def apply() -> None:
    """In a site's job process."""
    in_process_backend._RESULT_POLL_INTERVAL = POLL_SECONDS
