"""The GraphQL operations of an artifact's upload, as far as a model of one file needs them."""

from __future__ import annotations

from urllib.parse import quote

from tests.wandb_backend.state import JsonObject, State


def create(state: State, variables: JsonObject) -> JsonObject:
    """CreateArtifact: pending until it is committed."""
    wanted = variables["input"]
    number = f"artifact-{len(state.artifacts) + 1}"
    state.artifacts[number] = {
        "entity": wanted["entityName"],
        "project": wanted["projectName"],
        "run": wanted.get("runName"),
        "name": wanted["artifactCollectionName"],
        "type": wanted["artifactTypeName"],
        "committed": False,
    }
    made = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
    return {"createArtifact": {"artifact": made}}


def manifest(state: State, variables: JsonObject, prefix: str, answer: str) -> JsonObject:
    """CreateArtifactManifest and UpdateArtifactManifest: where the manifest goes."""
    number = variables.get("artifactID") or variables["artifactManifestID"].removeprefix("manifest-")
    file = {"id": "manifest-file", "uploadUrl": _place(state, number, prefix, "manifest.json"), "uploadHeaders": []}
    return {answer: {"artifactManifest": {"id": f"manifest-{number}", "file": file}}}


def files(state: State, variables: JsonObject, prefix: str) -> JsonObject:
    """CreateArtifactFiles: where each file goes."""
    edges = []
    for wanted in variables["input"]["artifactFiles"]:
        number = wanted["artifactID"]
        node = {
            "storagePath": wanted["name"],
            "uploadUrl": _place(state, number, prefix, wanted["name"]),
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": number},
        }
        edges.append({"node": node})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def commit(state: State, variables: JsonObject) -> JsonObject:
    """CommitArtifact: from now on it exists."""
    number = variables["artifactID"]
    state.artifacts[number]["committed"] = True
    return {"commitArtifact": {"artifact": {"id": number, "digest": "digest"}}}


def membership(state: State, variables: JsonObject) -> JsonObject:
    """ArtifactType: the type of a committed artifact, by its name."""
    name = str(variables["name"]).split(":")[0]
    found = [artifact for artifact in state.artifacts.values() if artifact["committed"] and artifact["name"] == name]
    return {"project": {"artifact": {"artifactType": {"name": found[-1]["type"]}} if found else None}}


def by_name(state: State, variables: JsonObject) -> JsonObject:
    """ArtifactMembershipByName: a committed artifact, by its name and alias."""
    name = str(variables["name"]).split(":")[0]
    found = [(number, kept) for number, kept in state.artifacts.items() if kept["committed"] and kept["name"] == name]
    return {"project": {"artifactCollectionMembership": _member(*found[-1]) if found else None}}


def _member(number: str, kept: JsonObject) -> JsonObject:
    project = {"id": "project", "internalId": "1", "name": kept["project"], "entity": {"name": kept["entity"]}}
    collection = {"name": kept["name"], "project": project}
    artifact = {
        **dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt"), None),
        "__typename": "Artifact",
        "id": number,
        "artifactSequence": {"__typename": "ArtifactSequence", **collection},
        "versionIndex": 0,
        "artifactType": {"name": kept["type"]},
        "metadata": "{}",
        "ttlDurationSeconds": 0,
        "ttlIsInherited": True,
        "tags": [],
        "state": "COMMITTED",
        "size": 0,
        "digest": "digest",
        "fileCount": 1,
        "createdAt": "2026-01-01T00:00:00",
        "aliases": [],
    }
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": f"member-{number}",
        "versionIndex": 0,
        "createdAt": "2026-01-01T00:00:00",
        "aliases": [{"__typename": "ArtifactAlias", "id": "alias", "alias": "latest"}],
        "artifactCollection": {"__typename": "ArtifactSequence", **collection},
        "artifact": artifact,
    }


def _place(state: State, number: str, prefix: str, name: str) -> str:
    artifact = state.artifacts[number]
    path = (artifact["entity"], artifact["project"], str(artifact["run"]))
    return prefix + "/".join(quote(part, safe="") for part in path) + f"/{number}/{quote(name)}"
