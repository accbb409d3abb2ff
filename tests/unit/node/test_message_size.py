"""A message larger than a result may be: refused by NVFlare's own setting, which the server's node makes for itself and its jobs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
    environment = {**os.environ, "NVFLARE_STREAMING_MAX_BLOB_SIZE": str(256 << 20)}
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(size)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip().splitlines()[-1:] == [answer], done.stderr
