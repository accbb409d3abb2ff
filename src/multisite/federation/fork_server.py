"""Starts a job's process as a fork of one that has NVFlare in memory already.

A fresh interpreter imports NVFlare for a second, on the server and on every site at once: on a host with more sites than cores that is
most of what a job waits for. So a node forks this server before it starts a thread; the two share their memory. The server does
nothing but fork, tell how its children ended, and end when the node does. Its children watch it, as NVFlare's watch their parent.

A forked process keeps the node's command line; what it is stands in its name, `fork-server`, `job-site` or `job-server` (`ps -o comm`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import queue
import random
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 20.0
LONGEST_MESSAGE = 1 << 20
KILLED = -int(signal.SIGKILL)


class ForkedProcess:
    """A process that was started; the same methods as NVFlare's `ProcessAdapter` (`nvflare/utils/process_utils.py`)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._over = threading.Event()

    def ended(self, code: int) -> None:
        """Notes the exit status; negative for a signal."""
        self._code = code
        self._over.set()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._code

    def wait(self) -> int | None:
        """Waits for its end."""
        self._over.wait()
        return self._code

    def terminate(self) -> None:
        """SIGKILL to it and its children."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class ForkServer:
    """The node's side."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._asking = threading.Lock()
        self._began: queue.Queue[ForkedProcess] = queue.Queue()
        self._running: dict[int, ForkedProcess] = {}
        self.alive = True
        threading.Thread(target=self._listen, daemon=True, name="fork-server").start()

    def spawn(self, arguments: Sequence[str], environment: dict[str, str], name: str) -> ForkedProcess:
        """Starts a process.

        Args:
            arguments: its `sys.argv`.
            environment: all of it; new entries of PYTHONPATH become importable.
            name: what it is called in `/proc/PID/comm`, 15 characters of it.

        Raises:
            OSError: the server is gone, or told nothing in START_SECONDS.
        """
        request = {"arguments": list(arguments), "environment": environment, "name": name}
        with self._asking:
            self._connection.sendall(json.dumps(request).encode())
            try:
                return self._began.get(timeout=START_SECONDS)
            except queue.Empty:
                self.alive = False
                raise OSError(f"the fork server started nothing in {START_SECONDS:.0f} s") from None

    def _listen(self) -> None:
        while message := self._connection.recv(LONGEST_MESSAGE):
            told = json.loads(message)
            if told["event"] == "began":
                process = self._running[told["pid"]] = ForkedProcess(told["pid"])
                self._began.put(process)
            else:
                self._running.pop(told["pid"]).ended(told["code"])
        self.alive = False
        for process in self._running.values():
            process.terminate()
            process.ended(KILLED)


def start(modules: Sequence[str], main: Callable[[], int]) -> ForkServer | None:
    """Forks the server off this process.

    Args:
        modules: what the children will need; imported here, so that the memory is shared.
        main: what a child runs; its return value is the exit status.

    Returns:
        None where this process has threads already: a fork would copy the locks that they hold.
    """
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # the collector would write to every shared page
    gc.enable()
    if threading.active_count() > 1:
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        _serve(theirs, main)
    theirs.close()
    return ForkServer(ours)


def _serve(connection: socket.socket, main: Callable[[], int]) -> None:
    """The server's loop; the process ends with it."""

    def tell(**fields: Any) -> None:
        with contextlib.suppress(OSError):  # the node has ended: so will this process, at its next look
            connection.sendall(json.dumps(fields).encode())

    def reap(number: int, frame: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                tell(event="ended", pid=ended[0], code=os.waitstatus_to_exitcode(ended[1]))

    _rename("fork-server")
    signal.signal(signal.SIGCHLD, reap)
    while message := connection.recv(LONGEST_MESSAGE):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # a start is told before its end
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            connection.close()
            _become(json.loads(message), main)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # on both sides: whoever is first
        tell(event="began", pid=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os._exit(0)


def _become(request: dict[str, Any], main: Callable[[], int]) -> None:
    """A child's life."""
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        _rename(request["name"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = request["arguments"]
        more = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path]
        sys.path[:0] = more
        random.seed()
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _rename(name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15], encoding="utf-8")
