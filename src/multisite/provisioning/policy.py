"""What may run on a participant, written into its kit at provisioning by a builder that project.yml names.

Only component classes that NVFlare or this package ships, and no code that arrives with a job: a stolen submitter's certificate
can't run code of its own on a site. A lost client is noticed in about 70 s instead of NVFlare's 11 minutes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.spec import Builder

from multisite.job.components import OUR_COMPONENTS

JOB_STORE = "/workspace/jobs"
SNAPSHOTS = "/workspace/snapshots"
HEARTBEAT_TIMEOUT_SECONDS = 60  # a site whose link is cut for half a minute is not lost: NVFlare drops its token for good
RESOURCES = "resources.json"
AUTHORIZATION = "authorization.json"
PROJECT_ADMIN_RIGHTS = {
    "submit_job": "any",
    "clone_job": "any",
    "manage_job": "any",
    "download_job": "any",
    "view": "any",
    "operate": "any",
    "shell_commands": "none",
    "byoc": "none",
    "server-predeployed-flwr": "none",
}


class SitePolicyBuilder(Builder):
    """Writes `local/resources.json` and `local/authorization.json` of the server and of every site, from NVFlare's defaults."""

    def build(self, project: Project, ctx: ProvisionContext) -> None:
        """NVFlare's builder seam; runs after StaticFileBuilder."""
        self._write(project.get_server(), ctx)
        for client in project.get_clients():
            self._write(client, ctx)

    @staticmethod
    def _write(participant: Participant, ctx: ProvisionContext) -> None:
        local = Path(ctx.get_local_dir(participant))
        resources = _read(local / f"{RESOURCES}.default")
        resources["class_allow_list"] = [*resources["class_allow_list"], *OUR_COMPONENTS]
        is_server = "servers" in resources
        for component in resources["components"]:
            if component["id"] == "process_launcher":
                component["path"] = f"multisite.node.job_launcher.{'Server' if is_server else 'Site'}JobLauncher"
            elif component["id"] == "resource_manager" and not is_server:
                component["path"] = "multisite.node.resources.SiteResources"
        resources["components"] += [
            {"id": "node_watch", "path": "multisite.node.engine.NodeWatch"},
            {"id": "process_endings", "path": "multisite.node.endings.ProcessEndings"},
            {"id": "tracking_agent", "path": "multisite.tracking.agent.TrackingAgent"},
        ]
        if is_server:
            resources["components"].append({"id": "message_filter", "path": "multisite.node.message_filter.MessageFilter"})
        _save(local / RESOURCES, _server_resources(resources) if is_server else resources)
        authorization = _read(local / f"{AUTHORIZATION}.default")
        authorization["permissions"]["project_admin"] = PROJECT_ADMIN_RIGHTS
        authorization["permissions"]["lead"]["byoc"] = "none"
        _save(local / AUTHORIZATION, authorization)


def allow_custom_code(authorization: dict[str, Any]) -> dict[str, Any]:
    """The same authorization, with jobs that carry code of their own allowed: the switch that a site turns on."""
    for role in ("project_admin", "lead"):
        authorization["permissions"][role]["byoc"] = "any"
    return authorization


def _server_resources(resources: dict[str, Any]) -> dict[str, Any]:
    resources["servers"][0]["heart_beat_timeout"] = HEARTBEAT_TIMEOUT_SECONDS
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = SNAPSHOTS
    for component in resources["components"]:
        if component["id"] == "job_manager":
            component["args"]["uri_root"] = JOB_STORE
    return resources


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _save(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
