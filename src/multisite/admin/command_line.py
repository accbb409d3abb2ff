"""The admin container's command line: brings a command to the admin service, and its events back.

    python -m multisite.admin.command_line wait --sites site-1,site-2 --timeout 90
    python -m multisite.admin.command_line submit OPTIONS [--on site-1,site-2] | follow JOB | abort JOB | jobs [--resources] | results JOB

Every line on stdout is one JSON object with an `event`. Standard library only: it starts in a tenth of a second.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from multisite.job import options as job_options

SOCKET = Path("/tmp/admin.sock")
START_SECONDS = 30.0
POLL_SECONDS = 0.1
EXIT = "exit"
EXIT_FAILED, EXIT_NO_SERVER, EXIT_TIMEOUT = 1, 3, 4


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `command` is the command's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    command = commands.add_parser("wait")
    command.add_argument("--sites", default="")
    command.add_argument("--timeout", type=float, default=90.0)
    command = commands.add_parser("jobs")
    command.add_argument("--limit", type=int, default=20)
    command.add_argument("--resources", action="store_true")
    command = commands.add_parser("submit")
    job_options.add_arguments(command)
    command.add_argument("--on", default="", help="the job's sites, by name; default: the seed draws from those registered")
    for name in ("follow", "abort", "results"):
        command = commands.add_parser(name)
        command.add_argument("job")
        command.add_argument("--timeout", type=float, default=60.0)
    return parser.parse_args(arguments)


def call(path: Path = SOCKET, seconds: float = START_SECONDS) -> socket.socket:
    """A connection to the service, which may be starting.

    Raises:
        OSError: it did not answer in `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def main() -> int:
    """Runs one command; its exit status is the service's."""
    parse()
    try:
        connection = call()
    except OSError as error:
        event = {"event": "error", "message": f"the admin does not answer: {error.strerror}", "next": "docker compose logs admin"}
        print(json.dumps(event), flush=True)
        return EXIT_FAILED
    connection.sendall((json.dumps(sys.argv[1:]) + "\n").encode())
    for line in connection.makefile(encoding="utf-8"):
        event = json.loads(line)
        if event["event"] == EXIT:
            return int(event["code"])
        print(line, end="", flush=True)
    event = {
        "event": "error",
        "message": "the admin's service ended in the middle of the command",
        "next": "docker compose logs admin",
    }
    print(json.dumps(event), flush=True)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
