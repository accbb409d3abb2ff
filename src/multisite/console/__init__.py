"""What a person uses: bring the deployment up, submit jobs, watch them, read their results.

Everything here runs on the host with the standard library alone, except `admin`, which runs in the admin container.
"""

import sys

if sys.version_info < (3, 9):  # noqa: UP036 (an older one runs this before it fails on something else)
    sys.exit(
        "python3: Python 3.9 or later is needed, this is "
        + sys.version.split()[0]
        + "\n  next: install one, and put it first in PATH"
    )
