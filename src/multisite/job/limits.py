"""Limits of what a site may send, by setting: the same on the server, which enforces them, and on the site, which says so first."""

from __future__ import annotations

import os

MAX_RESULT_MB = 256


def most_result_bytes() -> int:
    """The largest result that may be sent: MAX_RESULT_MB, in bytes.

    Raises:
        ValueError: it is no whole number above 0.
    """
    text = os.environ.get("MAX_RESULT_MB") or str(MAX_RESULT_MB)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"MAX_RESULT_MB={text} is no whole number above 0")
    return int(text) << 20
