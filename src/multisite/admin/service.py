"""The admin container's main process: keeps a logged-in NVFlare session, and runs the commands that `command_line` brings.

A login takes a second and a half, and an interpreter with NVFlare in it another half: paid once, not for every command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nvflare.fuel.flare_api.api_spec import JobNotFound, NoConnection
from nvflare.fuel.flare_api.flare_api import Session

from multisite import nvflare_patches
from multisite.admin import command_line, commands
from multisite.admin.command_line import EXIT, EXIT_FAILED, EXIT_NO_SERVER, SOCKET
from multisite.provisioning.kit import KIT, KitError, read_kit

CONNECT_SECONDS = 20.0
LONGEST_REQUEST = 64 * 1024


def login(seconds: float = CONNECT_SECONDS) -> Session:
    """A new NVFlare session, as soon as the server accepts one.

    Raises:
        NoConnection: no server answered in `seconds`.
        KitError: the admin's kit is missing or expired.
    """
    kit = read_kit(KIT)
    kit.check_valid()
    deadline = time.monotonic() + seconds
    kit.wait_for_server(seconds)
    home = Path(tempfile.mkdtemp())  # NVFlare wants to make its transfer folder beside the kit, which is read-only
    (home / "startup").symlink_to(kit.folder / "startup")
    (home / "local").symlink_to(kit.folder / "local")
    (home / "transfer").mkdir()
    opened = Session(kit.name, str(home))
    try:
        opened.try_connect(max(1.0, deadline - time.monotonic()))
    except BaseException:
        _close(opened)
        raise
    return opened


@contextlib.contextmanager
def session(seconds: float = CONNECT_SECONDS) -> Iterator[Session]:
    """A session of one's own, closed at the end: its threads would keep a process alive."""
    opened = login(seconds)
    try:
        yield opened
    finally:
        _close(opened)


def _close(opened: Session) -> None:
    """Ends a session without waiting for it: its server may be gone, and NVFlare would wait for that one's answer."""

    def close() -> None:
        with contextlib.suppress(Exception):
            opened.close()
        shutil.rmtree(opened.startup_path, ignore_errors=True)

    threading.Thread(target=close, daemon=True, name="close-session").start()


@dataclass
class Pool:
    """Sessions between commands. A command has one for itself, for a session is not made for two threads."""

    log_in: Callable[[float], Session] = login
    _idle: list[Session] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _first: threading.Thread | None = None

    def prepare(self) -> None:
        """Logs in before there is a command; one that comes meanwhile waits for it."""

        def open_first() -> None:
            with contextlib.suppress(NoConnection, KitError):  # the first command tries again, and says so
                self._give(self.log_in(CONNECT_SECONDS))

        self._first = threading.Thread(target=open_first, daemon=True, name="first-session")
        self._first.start()

    @contextlib.contextmanager
    def session(self, seconds: float = CONNECT_SECONDS) -> Iterator[Session]:
        """A session that the server knows: one that waited here, if it still answers, or a new one."""
        taken = self._take() or self.log_in(seconds)
        try:
            yield taken
        except NoConnection:
            _close(taken)
            raise
        except BaseException:
            self._give(taken)
            raise
        self._give(taken)

    def _take(self) -> Session | None:
        if self._first is not None:
            self._first.join(CONNECT_SECONDS)
        with self._lock:
            taken = self._idle.pop() if self._idle else None
        if taken is None:
            return None
        try:
            taken.get_system_info()
        except Exception as error:  # expired, or of a server that has started again since
            print(f"the admin's session has ended ({error}): logging in again", file=sys.stderr)
            _close(taken)
            return None
        return taken

    def _give(self, used: Session) -> None:
        with self._lock:
            if not self._idle and not used.api.closed:
                self._idle.append(used)
                return
        _close(used)


class Emitter:
    """Writes events to whoever brought the command; raises BrokenPipeError when nobody listens any more."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __call__(self, event: str, **fields: object) -> None:
        """One JSON line."""
        self._connection.sendall((json.dumps({"event": event, **fields}) + "\n").encode())


class Handler(socketserver.StreamRequestHandler):
    """One command."""

    def handle(self) -> None:
        """Reads the command line, runs it, sends its exit status."""
        emit = Emitter(self.connection)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            arguments = command_line.parse(json.loads(self.rfile.readline(LONGEST_REQUEST)))
            emit(EXIT, code=run(commands.COMMANDS[arguments.command], arguments, self.server.pool, emit))  # type: ignore[attr-defined]


def run(command: Callable[..., int], arguments: argparse.Namespace, pool: Pool, emit: Callable[..., None]) -> int:
    """Runs a command in a session; what goes wrong is an event, with the next step."""
    try:
        with pool.session(getattr(arguments, "timeout", CONNECT_SECONDS)) as flare:
            return command(flare, arguments, emit)
    except NoConnection as error:
        next_step = "docker compose ps server; docker compose logs server"
        emit("error", message=f"the server does not answer: {error}", next=next_step, no_server=True)
        return EXIT_NO_SERVER
    except JobNotFound:
        emit("error", message=f"no job {getattr(arguments, 'job', '')}", next="`make status` lists them")
    except KitError as error:
        emit("error", message=str(error))
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        emit("error", message=f"{type(error).__name__}: {error}", next="docker compose logs admin")
    return EXIT_FAILED


class Service(socketserver.ThreadingUnixStreamServer):
    """Listens where `command_line` connects."""

    daemon_threads = True

    def __init__(self, path: Path = SOCKET) -> None:
        path.unlink(missing_ok=True)
        super().__init__(str(path), Handler)
        os.chmod(path, 0o600)
        self.pool = Pool()


def main() -> int:
    """Serves until the container stops."""
    nvflare_patches.apply()
    with Service() as service:
        service.pool.prepare()
        service.serve_forever(poll_interval=60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
