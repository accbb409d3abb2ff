"""TORCH_INDEX: torch and torchvision at their locked releases from another index, as hosts without a GPU want them."""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import PROJECT, Stack, free_port

LOCKED = re.compile(r"^(torch|torchvision)==([^ ]+)", re.MULTILINE)


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A package of one module that says where it comes from."""
    folder.mkdir(parents=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\nindex = 'local'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index on this machine that has the two at their locked releases, and nothing else."""
    for name, version in LOCKED.findall((PROJECT / "docker/requirements/site.txt").read_text(encoding="utf-8")):
        write_wheel(tmp_path / "simple" / name, name, version)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def test_torch_comes_from_the_index_that_is_set_and_everything_else_from_the_locked_lists(tmp_path: Path, index: str) -> None:
    copy = Stack(tmp_path / "copy", f"multisite-e2e-cpu-{os.getpid()}", free_port(), tmp_path / "transcript.txt")
    copy.home.mkdir()
    copy.create()
    base = copy.run("docker/base-image.sh", "debian:bookworm-slim").text.split()[-1]
    bundle = os.environ.get("CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or "/dev/null"
    image = f"{copy.name}:test"
    try:
        done = copy.run(
            "docker", "buildx", "build", "--quiet", "--network", "host", "--file", "docker/Dockerfile", "--target", "site-dependencies",
            "--tag", image, "--build-arg", f"BASE={base}", "--build-arg", f"TORCH_INDEX={index}", "--secret", f"id=ca,src={bundle}",
            ".", seconds=900,
        )  # fmt: skip
        assert done.code == 0, done.text
        script = "import torch, torchvision, nvflare, safetensors; print(torch.index, torchvision.index, nvflare.__version__)"
        said = copy.run("docker", "run", "--rm", "--network", "none", image, "python", "-c", script)
        assert said.text.startswith("local local 2."), said.text
    finally:
        copy.run("docker", "image", "rm", "--force", image)
