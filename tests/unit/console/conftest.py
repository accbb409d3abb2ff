"""What several of the console's tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from multisite.console.docker import Container, Docker
from tests.unit.console.host import Host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(Docker, "containers", lambda _: {"admin": Container("admin", "id", "running", None)})
    return Host(tmp_path)
