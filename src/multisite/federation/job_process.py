"""A job's process, on the server and on a site: NVFlare's own, without its waits at both ends.

    python -m multisite.federation.job_process server|site ARGUMENTS    NVFlare's arguments for its own module

NVFlare sleeps 3 s before a job's process cleans up (`nvflare/fuel/f3/mpm.py:84`); its traffic has ended by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import shlex
import sys
import threading
from typing import Any

from nvflare.apis.fl_constant import FLContextKey, JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.utils.job_launcher_utils import add_custom_dir_to_path, get_credential_env

from multisite.federation import endings, fork_server, memory
from multisite.federation.fork_server import ForkServer

GRACE_SECONDS = 0.1
NO_GPU = "/opt/no-gpu"  # docker/no-gpu.sh
MODULES = {
    "site": "nvflare.private.fed.app.client.worker_process",
    "server": "nvflare.private.fed.app.server.runner_process",
}
# What the jobs of this package load beside it, and what is no part of NVFlare's parent process: nothing that needs NumPy, whose 7 MiB
# an idle container does without, and no torch.
COMPONENTS = {
    "site": ("multisite.federation.bell",),
    "server": ("multisite.federation.progress", "multisite.tracking.receiver"),
}

logger = logging.getLogger("multisite.node")
_fork_server: ForkServer | None = None


def prepare(role: str) -> None:
    """In a node, before it starts a thread: makes its jobs start as forks. Without this they are fresh processes.

    Args:
        role: `site` or `server`.
    """
    global _fork_server
    _fork_server = fork_server.start((MODULES[role], *COMPONENTS[role]), run)


def _launch(launcher: ProcessJobLauncher, job_meta: dict[str, Any], fl_ctx: FLContext, role: str) -> endings.WatchedHandle | None:
    """As `nvflare/app_common/job_launcher/process_launcher.py:64`, by the fork server; None where there is none."""
    if _fork_server is None or not _fork_server.alive:
        return None
    environment = os.environ.copy()
    if custom := fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_app_custom_dir(job_meta.get(JobConstants.JOB_ID)):
        add_custom_dir_to_path(custom, environment)
    environment.update(get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {}))
    command = shlex.split(launcher.get_command(job_meta, fl_ctx))
    try:
        process = _fork_server.spawn(command[command.index(__name__) :], environment, f"job-{role}")
    except OSError as error:
        logger.warning("%s: starting the job's process without it", error)
        return None
    return endings.WatchedHandle(process_adapter=process)  # type: ignore[arg-type]


def _ours(command: str, role: str) -> str:
    """NVFlare's command, with this module in place of its own."""
    return command.replace(f"-m {MODULES[role]}", f"-m {__name__} {role}", 1)


class SiteJobLauncher(ClientProcessJobLauncher):
    """Starts a site's job process; named in the site's `local/resources.json`."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        """NVFlare's launcher seam."""
        return _ours(super().get_command(job_meta, fl_ctx), "site")

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """NVFlare's launcher seam."""
        handle = _launch(self, job_meta, fl_ctx, "site")
        if handle is None:
            handle = endings.WatchedHandle(process_adapter=super().launch_job(job_meta, fl_ctx).adapter)
        engine = fl_ctx.get_engine()
        endings.watch(handle, job_meta[JobConstants.JOB_ID], lambda ending: endings.tell_server(engine, ending))
        return handle


class ServerJobLauncher(ServerProcessJobLauncher):
    """Starts the server's job process; named in the server's `local/resources.json`."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        """NVFlare's launcher seam."""
        return _ours(super().get_command(job_meta, fl_ctx), "server")

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """NVFlare's launcher seam."""
        handle = _launch(self, job_meta, fl_ctx, "server")
        if handle is None:
            handle = endings.WatchedHandle(process_adapter=super().launch_job(job_meta, fl_ctx).adapter)
        engine = fl_ctx.get_engine()
        endings.watch(handle, job_meta[JobConstants.JOB_ID], lambda ending: endings.note(engine, FQCN.ROOT_SERVER, ending))
        return handle


def leave_out_gpu_libraries() -> None:
    """Before torch is imported: on a host without NVIDIA's driver it loads stand-ins for the libraries that only a GPU uses."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.path.insert(0, NO_GPU)


def import_torch() -> None:
    """Beside NVFlare's own start, in a thread: without the collector, which would look through a million new objects several times."""
    gc.disable()
    with contextlib.suppress(Exception):  # the training script imports it again, and says what is wrong
        importlib.import_module("torch")
    gc.enable()


def main() -> int:
    """Runs NVFlare's job process for this role."""
    from nvflare.fuel.f3.mpm import MainProcessMonitor

    from multisite.federation import timers, transport
    from multisite.federation.bell import task_news

    role = sys.argv.pop(1)
    memory.keep_freed(memory.KEPT_FOR_TRAINING if role == "site" else memory.KEPT_FOR_MESSAGES)
    if role == "site":
        from nvflare.private.fed.app.client import worker_process as process

        leave_out_gpu_libraries()
        threading.Thread(target=import_torch, daemon=True, name="import-torch").start()
        timers.hurry_client_api()
        timers.hurry_site_runner(task_news)
    else:
        from nvflare.private.fed.app.server import runner_process as process

        timers.hurry_server_engine()
        timers.hurry_results()
        memory.give_back_while(lambda: True)
    timers.hurry_parent_watch()
    transport.lighten_messages()
    transport.load_needed_drivers()
    arguments = process.parse_arguments()
    run_dir = os.path.join(arguments.workspace, arguments.job_id)
    code = MainProcessMonitor.run(main_func=process.main, run_dir=run_dir, shutdown_grace_time=GRACE_SECONDS, args=arguments)
    return int(code or 0)


def run() -> int:
    """`main`, with everything logged when it returns."""
    status = main()
    logging.shutdown()
    return status


if __name__ == "__main__":
    status = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the interpreter would take a second to unload torch, and the job is over when this process is gone
