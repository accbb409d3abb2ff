"""A job's process: NVFlare's own, with this package's patches, and without its 3 s of waiting at the end.

python -m multisite.node.job_process server|site ARGUMENTS    NVFlare's arguments for its own module
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading

from nvflare.fuel.f3.mpm import MainProcessMonitor

from multisite import nvflare_patches

GRACE_SECONDS = 0.1  # `shutdown_grace_time` of `nvflare/fuel/f3/mpm.py`: the job's messages have ended by then
MODULES = {
    "site": "nvflare.private.fed.app.client.worker_process",
    "server": "nvflare.private.fed.app.server.runner_process",
}


def import_torch() -> None:
    """Beside NVFlare's own start, which waits more than it computes: worth 0.6 s of a job."""
    with contextlib.suppress(Exception):  # the training script imports it again, and says what is wrong
        importlib.import_module("torch")


def main() -> int:
    """Runs NVFlare's job process for a role."""
    role = sys.argv.pop(1)
    if role == "site":
        threading.Thread(target=import_torch, daemon=True, name="import-torch").start()
    process = importlib.import_module(MODULES[role])
    nvflare_patches.apply()
    arguments = process.parse_arguments()
    run_dir = os.path.join(arguments.workspace, arguments.job_id)
    code = MainProcessMonitor.run(main_func=process.main, run_dir=run_dir, shutdown_grace_time=GRACE_SECONDS, args=arguments)
    return int(code or 0)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the interpreter would take a second to unload torch, and the job is over when this process is gone
