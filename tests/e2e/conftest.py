"""The deployment under test, one for the whole session; its logs are kept when something failed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import PROJECT, Stack, free_port

ARTIFACTS = PROJECT / "tests" / "artifacts"
REAL = bool(os.environ.get("CIFAR10_DIR"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs real CIFAR-10 is left out by name where there is no copy."""
    absent = pytest.mark.skipif(not REAL, reason="needs real CIFAR-10: set CIFAR10_DIR to a local copy")
    for item in items:
        if item.get_closest_marker("real_cifar10"):
            item.add_marker(absent)


def _deployment(home: Path, request: pytest.FixtureRequest, **settings: str) -> Iterator[Stack]:
    home.mkdir(parents=True, exist_ok=True)
    stack = Stack(home, f"multisite-e2e-{os.getpid()}", free_port(), home / "transcript.txt", settings)
    stack.create()
    yield stack
    if request.session.testsfailed:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        (ARTIFACTS / f"{stack.name}-containers.txt").write_text(stack.compose("logs", "--timestamps").text, encoding="utf-8")
        shutil.copyfile(stack.transcript, ARTIFACTS / f"{stack.name}-transcript.txt")
        if os.environ.get("E2E_KEEP_FAILED") == "1":
            print(f"kept: {stack.name} in {home}")
            return
    stack.destroy()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A deployment that is up, streaming through the server, with a key."""
    for stack in _deployment(tmp_path_factory.mktemp("deployment") / "multisite", request):
        done = stack.make("up", seconds=900)
        assert done.code == 0, done.text
        yield stack
