"""A container's main process: `python -m multisite node`, of a server or a site, and `python -m multisite admin`."""

from __future__ import annotations

import sys

from multisite.federation import lean


def main() -> int:
    """Runs the participant until it ends.

    Returns:
        Its exit status; 2 for an unknown one.
    """
    participant = sys.argv.pop(1) if len(sys.argv) == 2 else ""
    with lean.imports():
        if participant == "node":
            from multisite.federation.node import main as run
        elif participant == "admin":
            from multisite.console.admin_service import main as run
        else:
            print("usage: python -m multisite node|admin", file=sys.stderr)
            return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
