"""A message larger than a result may be: refused by NVFlare's own setting, which the server's node makes for itself and its jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from multisite.node import main as node
from multisite.nvflare_patches import VARIABLE
from tests.unit.node.test_node import make_kit

LARGE = """

from nvflare.fuel.f3.streaming.blob_streamer import BlobHandler
from nvflare.fuel.f3.streaming.stream_types import Stream, StreamFuture
class Declared(Stream):
    def read(self, size): raise SystemExit("it was read")
future = StreamFuture(1, {})
BlobHandler(lambda future: None).handle_blob_cb(future, Declared(int(__import__("sys").argv[1]), {}), False)
print(type(future.error).__name__ if future.error else "accepted")
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], dict[str, str]]:
    """Starts the node of a role with a MAX_RESULT_MB, as far as to NVFlare; gives the environment of its job processes."""

    def start(role: str, most: str) -> dict[str, str]:
        monkeypatch.setattr(os, "environ", {**os.environ, "MAX_RESULT_MB": most, VARIABLE: "none"})
        kit = make_kit(tmp_path / "kit", role)
        (tmp_path / "workspace").mkdir()
        for name, value in (("WORKSPACE", tmp_path / "workspace"), ("READY", tmp_path / "ready"), ("read_kit", lambda _: kit)):
            monkeypatch.setattr(node, name, value)
        monkeypatch.setattr(node.Node, "run", lambda _: 0)
        assert node.main() == 0
        return dict(os.environ)

    return start


@pytest.mark.parametrize(
    ("role", "most", "size", "answer"),
    [
        ("server", "", 300 << 20, "BlobSizeError"),
        ("server", "", 5 << 20, "accepted"),
        ("server", "4", 6 << 20, "BlobSizeError"),
        ("server", "400", 300 << 20, "accepted"),
        ("client", "4", 6 << 20, "accepted"),  # a site takes what its server sends
    ],
)
def test_a_message_larger_than_a_result_may_be_is_refused_by_its_declared_size(
    started: Callable[[str, str], dict[str, str]], role: str, most: str, size: int, answer: str
) -> None:
    environment = started(role, most)
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(size)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip().splitlines()[-1:] == [answer], done.stderr
