"""A host whose `docker` is a script of the test's, for what is brought to it from a container."""

from __future__ import annotations

import io
import os
import shlex
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from multisite.console import results
from multisite.console.deployment import Deployment
from multisite.console.docker import Docker
from multisite.console.settings import Settings

LARGE = os.urandom(1024) * 2048  # more than a pipe and a buffer hold
SECONDS = 30.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        threading.Event().wait(0.01)


def packed(**files: bytes) -> bytes:
    """A tar of job 7 with these files; `models__best` is models/best."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        folder = tarfile.TarInfo("7")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, inside in files.items():
            member = tarfile.TarInfo("7/" + name.replace("__", "/"))
            member.size = len(inside)
            archive.addfile(member, io.BytesIO(inside))
    return content.getvalue()


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


class Host:
    """A host whose `docker` is a script of the test's. It notes each call in `calls`, and finds the test's files in its folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.place = home / "results" / "7"
        self.deployment = Deployment(Settings(home, {}), Docker(home))

    def docker(self, script: str) -> None:
        """What `docker` does from now on."""
        (self.home / "bin").mkdir(exist_ok=True)
        path = self.home / "bin" / "docker"
        path.write_text(f"#!/bin/sh\ncd {shlex.quote(str(self.home))}\necho $$ >>calls\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def sends(self, content: bytes, script: str = "exec cat answer") -> None:
        (self.home / "answer").write_bytes(content)
        self.docker(script)

    def stops_after(self, content: bytes, count: int) -> None:
        """It sends the first `count` bytes, then waits for whoever opens the pipe `go`, and sends the rest."""
        (self.home / "answer").write_bytes(content[:count])
        (self.home / "rest").write_bytes(content[count:])
        if not (self.home / "go").exists():
            os.mkfifo(self.home / "go")
        self.docker("cat answer; read _ <go; exec cat rest")

    def bring(self) -> Path:
        return results.bring(self.deployment, "7")

    def calls(self) -> list[int]:
        path = self.home / "calls"
        return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []

    def content(self) -> dict[str, bytes]:
        """Every file of the job's folder."""
        return {str(path.relative_to(self.place)): path.read_bytes() for path in self.place.rglob("*") if path.is_file()}

    def has_begun(self) -> bool:
        """Whether bytes of a file are on the disk that is not whole."""
        return any(path.is_file() and path.stat().st_size for path in (self.home / "results" / ".partial").rglob("*"))

    def leftovers(self) -> list[Path]:
        return list((self.home / "results" / ".partial").iterdir())
