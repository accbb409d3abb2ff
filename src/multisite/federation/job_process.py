"""A job's process, on the server and on a site: NVFlare's own, without its waits at both ends.

    python -m multisite.federation.job_process server|site ARGUMENTS    NVFlare's arguments for its own module

NVFlare sleeps 3 s before a job's process cleans up (`nvflare/fuel/f3/mpm.py:84`); its traffic has ended by then.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher

GRACE_SECONDS = 0.1
MODULES = {
    "site": "nvflare.private.fed.app.client.worker_process",
    "server": "nvflare.private.fed.app.server.runner_process",
}


def _ours(command: str, role: str) -> str:
    """NVFlare's command, with this module in place of its own."""
    return command.replace(f"-m {MODULES[role]}", f"-m {__name__} {role}", 1)


class SiteJobLauncher(ClientProcessJobLauncher):
    """Starts a site's job process; named in the site's `local/resources.json`."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        """NVFlare's launcher seam."""
        return _ours(super().get_command(job_meta, fl_ctx), "site")


class ServerJobLauncher(ServerProcessJobLauncher):
    """Starts the server's job process; named in the server's `local/resources.json`."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        """NVFlare's launcher seam."""
        return _ours(super().get_command(job_meta, fl_ctx), "server")


def main() -> int:
    """Runs NVFlare's job process for this role."""
    from nvflare.fuel.f3.mpm import MainProcessMonitor

    from multisite.federation import timers
    from multisite.federation.bell import task_news

    role = sys.argv.pop(1)
    if role == "site":
        from nvflare.private.fed.app.client import worker_process as process

        timers.hurry_client_api()
        timers.hurry_site_runner(task_news)
    else:
        from nvflare.private.fed.app.server import runner_process as process

        timers.hurry_server_engine()
    timers.hurry_parent_watch()
    timers.share_stream_timers()
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
