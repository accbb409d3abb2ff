"""Run the stand-in: ``python -m tests.wandb_backend --keys-file FILE [--port 8970] [--bind 0.0.0.0]``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.wandb_backend.keys import KnownKeys
from tests.wandb_backend.server import WandbBackend

DEFAULT_PORT = 8970


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.wandb_backend", description=__doc__)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--keys-file", type=Path, help="file with one KEY=label a line")
    parser.add_argument("--keys", default="", help="KEY=label,...: added to those of the file; any user can see it")
    return parser


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Without a key every client would be refused, so that is an error."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        keys = KnownKeys.load(args.keys_file, args.keys)
    except OSError as error:
        parser.error(f"cannot read the keys file: {error.strerror}")
    if not len(keys):
        parser.error("give at least one key, by --keys-file or --keys")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    with WandbBackend((args.bind, args.port), keys) as backend:
        print(f"listening on {backend.url} with {len(keys)} key(s)", flush=True)
        backend.serve_with_refusals()
    return 0


if __name__ == "__main__":
    sys.exit(main())
