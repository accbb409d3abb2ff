"""How a node starts its jobs' processes: by NVFlare's own launchers, with this package's module in the command, and watched."""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_constant import JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.fuel.f3.cellnet.fqcn import FQCN

from multisite.node import endings, job_process


def as_ours(command: str, role: str) -> str:
    """NVFlare's command, with `job_process` in place of its own module.

    Raises:
        ValueError: NVFlare starts its job process by another module than the known one.
    """
    module = f"-m {job_process.MODULES[role]} "
    if module not in command:
        raise ValueError(f"NVFlare's command for a job's process has no {module.strip()}: {command}")
    return command.replace(module, f"-m {job_process.__name__} {role} ", 1)


class SiteJobLauncher(ClientProcessJobLauncher):
    """Starts a site's job process; named in the site's `local/resources.json`."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        """NVFlare's launcher seam."""
        return as_ours(super().get_command(job_meta, fl_ctx), "site")

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """NVFlare's launcher seam."""
        handle, engine = endings.WatchedHandle(super().launch_job(job_meta, fl_ctx).adapter), fl_ctx.get_engine()
        endings.watch(handle, job_meta[JobConstants.JOB_ID], lambda ending: endings.report_to_server(engine, ending))
        return handle


class ServerJobLauncher(ServerProcessJobLauncher):
    """Starts the server's job process; named in the server's `local/resources.json`."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        """NVFlare's launcher seam."""
        return as_ours(super().get_command(job_meta, fl_ctx), "server")

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """NVFlare's launcher seam."""
        handle, engine = endings.WatchedHandle(super().launch_job(job_meta, fl_ctx).adapter), fl_ctx.get_engine()
        endings.watch(handle, job_meta[JobConstants.JOB_ID], lambda ending: endings.note(engine, FQCN.ROOT_SERVER, ending))
        return handle
