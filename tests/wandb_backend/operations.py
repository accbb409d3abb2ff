"""The GraphQL operations that wandb 0.31 sends for runs, the public listing of runs, and a model artifact."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from tests.wandb_backend import artifacts
from tests.wandb_backend.faults import Faults
from tests.wandb_backend.keys import Caller
from tests.wandb_backend.state import DEFAULT_ENTITY, DEFAULT_PROJECT, JsonObject, RunRecord, State

OPERATION_NAME = re.compile(r"(?:query|mutation)\s+(\w+)")
MAX_QUERY_KEPT = 2_000
STORAGE_PREFIX = "/_storage/"

CONSTANT_ANSWERS: dict[str, JsonObject] = {
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "ServerInfo": {
        "serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None},
    },
    "OrganizationCoreWeaveOrganizationID": {"entity": {"organization": {"coreWeaveOrganizationId": None}}},
    "OrgFeatureFlags": {"organization": {"featureFlags": []}},
    "RunStoppedStatus": {"project": {"run": {"stopped": False}}},
    "MarkRunFilesUploaded": {"markRunFilesUploaded": {"success": True}},
}


@dataclass(frozen=True)
class Call:
    """One GraphQL call: its variables, who made it, and under which address the caller reaches this backend."""

    state: State
    variables: JsonObject
    caller: Caller
    base_url: str
    query: str
    faults: Faults

    def counted(self, run: RunRecord) -> int:
        """The lines of a run, as the answer to this call counts them."""
        return run.counted(self.faults.lag, self.faults.rows_at_end)

    @property
    def entity(self) -> str:
        """The entity asked for, or the backend's default one."""
        return str(self.variables.get("entity") or DEFAULT_ENTITY)

    @property
    def project(self) -> str:
        """The project asked for, or the backend's default one."""
        return str(self.variables.get("project") or DEFAULT_PROJECT)


class NoSuchField(Exception):
    """The query names a field that the server does not have."""


def answer(state: State, request: JsonObject, caller: Caller, base_url: str, faults: Faults) -> JsonObject:
    """Answer one GraphQL request body. An operation that is not known goes on record and gets an empty answer."""
    query = str(request["query"])
    match = OPERATION_NAME.search(query)
    op = match[1] if match else str(request.get("operationName") or "?")
    state.count_op(op)
    if op == "Runs" and faults.no_query:
        raise NoSuchField('Cannot query field "runs" on type "Project".')
    if op in CONSTANT_ANSWERS:
        return {"data": CONSTANT_ANSWERS[op]}
    if op in RESOLVERS:
        return {"data": RESOLVERS[op](Call(state, request.get("variables") or {}, caller, base_url, query, faults))}
    state.unknown_ops[op] = query[:MAX_QUERY_KEPT]
    return {"data": {}}


def _viewer(call: Call) -> JsonObject:
    label = call.caller.label
    return {
        "viewer": {
            "id": "viewer",
            "entity": DEFAULT_ENTITY,
            "username": label,
            "name": label,
            "email": None,
            "flags": "{}",
            "admin": False,
            "teams": {"edges": [{"node": {"name": DEFAULT_ENTITY}}]},
        }
    }


def _run_resume_status(call: Call) -> JsonObject:
    run = call.state.find(call.entity, call.project, call.variables["name"])
    if run is not None:  # only a resuming client asks
        run.resume()
    return {
        "model": {
            "id": f"project-{call.project}",
            "name": call.project,
            "entity": {"id": f"entity-{call.entity}", "name": call.entity},
            "bucket": _resumable(run, call.counted(run)) if run else None,
        }
    }


def _resumable(run: RunRecord, lines: int) -> JsonObject:
    """What the SDK needs to go on with a run that the backend knows, of which it counts ``lines`` lines."""
    return {
        "id": f"run-{run.name}",
        "name": run.name,
        "displayName": run.display_name,
        "tags": run.tags,
        "notes": None,
        "config": json.dumps(run.config),
        "wandbConfig": json.dumps({"t": 1}),
        "summaryMetrics": json.dumps(run.summary or {}),
        "historyLineCount": lines,
        "historyTail": json.dumps([run.history[lines - 1]] if lines else []),
        "eventsLineCount": len(run.events),
        "eventsTail": json.dumps(_last_line(run.events)),
        "logLineCount": len(run.output),
    }


def _last_line(lines: dict[int, str]) -> list[str]:
    return [lines[max(lines)]] if lines else []


def _upsert_bucket(call: Call) -> JsonObject:
    name = str(call.variables["name"])
    is_new = call.state.find(call.entity, call.project, name) is None
    run = call.state.run(call.entity, call.project, name)
    run.upsert(call.variables)
    run.saw(call.caller)
    bucket = {
        "id": f"run-{name}",
        "name": name,
        "displayName": run.display_name or name,
        "description": None,
        "config": json.dumps(run.config),
        "sweepName": None,
        "historyLineCount": call.counted(run),
        "project": {
            "id": f"project-{call.project}",
            "name": call.project,
            "entity": {"id": f"entity-{call.entity}", "name": call.entity},
        },
    }
    return {"upsertBucket": {"inserted": is_new, "bucket": bucket}}


def _create_run_files(call: Call) -> JsonObject:
    name = str(call.variables["run"])
    folder = call.base_url + STORAGE_PREFIX + "/".join(quote(part, safe="") for part in (call.entity, call.project, name))
    files = [{"name": file, "uploadUrl": f"{folder}/{quote(file)}"} for file in call.variables["files"]]
    return {"createRunFiles": {"runID": f"run-{name}", "uploadHeaders": [], "files": files}}


def _runs(call: Call) -> JsonObject:
    """The public API's listing. Of its filters, only `{"name": {"$in": [...]}}` is known; another is an error."""
    names = json.loads(call.variables.get("filters") or "{}")["name"]["$in"]
    path = (call.entity, call.project)
    found = [run for run in call.state.runs.values() if (run.entity, run.project) == path and run.name in names]
    if not any((run.entity, run.project) == path for run in call.state.runs.values()):
        return {"project": None}
    edges = [{"node": _listed(call, run), "cursor": str(number)} for number, run in enumerate(found)]
    page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
    return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": page}}


def _listed(call: Call, run: RunRecord) -> JsonObject:
    lines = 0 if call.faults.uncounted else call.counted(run)
    heavy: JsonObject = {}
    if "historyKeys" in call.query:
        heavy = {"config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary or {}), "systemMetrics": "{}"}
        heavy["historyKeys"] = run.history_keys(lines)
    return {
        **heavy,
        "id": f"run-{run.name}",
        "projectId": "1",
        "tags": run.tags,
        "name": run.name,
        "displayName": run.display_name,
        "sweepName": None,
        "state": "finished" if run.complete else "running",
        "group": run.group,
        "jobType": run.job_type,
        "commit": None,
        "readOnly": False,
        "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00",
        "description": None,
        "notes": None,
        "historyLineCount": lines,
        "user": {"name": "stub", "username": "stub"},
    }


RESOLVERS: dict[str, Callable[[Call], JsonObject]] = {
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "Runs": _runs,
    "ArtifactType": lambda call: artifacts.membership(call.state, call.variables),
    "ArtifactMembershipByName": lambda call: artifacts.by_name(call.state, call.variables),
    "CreateArtifact": lambda call: artifacts.create(call.state, call.variables),
    "CreateArtifactManifest": lambda call: artifacts.manifest(
        call.state, call.variables, call.base_url + STORAGE_PREFIX, "createArtifactManifest"
    ),
    "UpdateArtifactManifest": lambda call: artifacts.manifest(
        call.state, call.variables, call.base_url + STORAGE_PREFIX, "updateArtifactManifest"
    ),
    "CreateArtifactFiles": lambda call: artifacts.files(call.state, call.variables, call.base_url + STORAGE_PREFIX),
    "CommitArtifact": lambda call: artifacts.commit(call.state, call.variables),
    "RunResumeStatus": _run_resume_status,
    "UpsertBucket": _upsert_bucket,
    "CreateRunFiles": _create_run_files,
}
