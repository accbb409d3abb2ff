"""project.yml: what NVFlare, or this deployment, can't work with is refused in a person's words; then the settings are applied."""

from __future__ import annotations

import re
from typing import Any

ADMIN_FOLDER = "admin"
TYPES = ("server", "client", "admin")
SCHEMES = ("http", "grpc")
EXAMPLES = {"name": "site-3", "type": "client", "org": "hospital_c", "role": "project_admin"}
# NVFlare's own, see nvflare/apis/utils/format_check.py.
ORG = re.compile(r"[A-Za-z0-9_]+")
CLIENT_NAME = re.compile(r"[A-Za-z0-9_-]+")
HOST_NAME = re.compile(r"(([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])\.)*([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])")
ADMIN_NAME = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
PROJECT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ProvisionError(Exception):
    """Provisioning can't go on. The message ends with the next step."""


def effective_project(project: dict[str, Any], server_names: list[str], port: int) -> dict[str, Any]:
    """project.yml with the settings applied: the server's public names and its port.

    Raises:
        ProvisionError: NVFlare or this deployment can't work with it; it names the participant, the rule, and what to write instead.
    """
    check_project(project)
    for name in server_names:
        if not HOST_NAME.fullmatch(name):
            raise ProvisionError(f"SERVER_NAMES: {name!r} is no host name and no address\n  next: correct it in .env")
    server = server_of(project)
    server["fed_learn_port"] = server["admin_port"] = port
    server["default_host"] = server["name"]
    server["host_names"] = [name for name in server_names if name != server["name"]]
    return project


def check_project(project: Any) -> None:
    """Before NVFlare sees it, whose own errors are tracebacks, and before anything is changed. The rules on names are NVFlare's.

    Raises:
        ProvisionError: as `effective_project`.
    """
    participants = project.get("participants") if isinstance(project, dict) else None
    if not isinstance(participants, list) or not participants or not all(isinstance(one, dict) for one in participants):
        raise refusal("it has no list of participants", "give it one; git diff project.yml shows what has changed")
    if not PROJECT_NAME.fullmatch(str(project.get("name", ""))):
        raise refusal(f"its name is {project.get('name')!r}: letters, digits, _, - and . only", "name: multisite")
    for number, participant in enumerate(participants, 1):
        _check_participant(participant, number)
    names = [participant["name"] for participant in participants]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise refusal(f"{names.count(twice)} participants are called {twice}", "give each a name of its own")
    by_type = {kind: [one["name"] for one in participants if one["type"] == kind] for kind in TYPES}
    if len(by_type["server"]) != 1:
        held = f"{len(by_type['server'])} servers ({', '.join(by_type['server'])})" if by_type["server"] else "no server"
        raise refusal(f"it has {held}: it needs exactly one", "leave one participant with type: server")
    for kind in ("client", "admin"):
        if not by_type[kind]:
            raise refusal(f"it has no {kind}: it needs at least one", f"add a participant with type: {kind}")
    if len(by_type["admin"]) > 1:
        raise refusal(
            f"it has {len(by_type['admin'])} admins ({', '.join(by_type['admin'])}), and this deployment runs one",
            "leave one participant with type: admin",
        )
    _check_scheme(project)


def server_of(project: dict[str, Any]) -> dict[str, Any]:
    """The one server of a checked project."""
    return next(one for one in project["participants"] if one["type"] == "server")


def scheme_of(project: dict[str, Any]) -> str:
    """How NVFlare's frames travel, by the arguments of its StaticFileBuilder."""
    for builder in project.get("builders") or ():
        if isinstance(builder, dict) and str(builder.get("path")).endswith(".StaticFileBuilder"):
            return str((builder.get("args") or {}).get("scheme", SCHEMES[0]))
    return SCHEMES[0]


def _check_scheme(project: dict[str, Any]) -> None:
    scheme = scheme_of(project)
    if scheme in SCHEMES:
        return
    why = "is not one of those that this deployment knows and tests"
    if scheme.lower().strip() == "tcp":
        why = "takes one connection's TLS handshake at a time: whoever connects and says nothing keeps every site out"
    raise refusal(f"NVFlare's scheme {scheme!r} {why}", f"scheme: {' or '.join(SCHEMES)}, in the arguments of StaticFileBuilder")


def _check_participant(participant: dict[str, Any], number: int) -> None:
    who = f"participant {participant.get('name') or number}"
    for key in ("name", "type", "org", *(["role"] if participant.get("type") == "admin" else [])):
        if not isinstance(participant.get(key), str) or not participant[key]:
            raise refusal(f"{who}: {key} is {participant.get(key)!r}, it has to be a text", f"{key}: {EXAMPLES[key]}")
    name, kind, org = participant["name"], participant["type"], participant["org"]
    if kind not in TYPES:
        raise refusal(f"{who}: type {kind!r} is not one of {', '.join(TYPES)}", "type: client, for a site")
    if not ORG.fullmatch(org):
        raise refusal(f"{who}: org {org!r} has to be of letters, digits and _", f"org: {_spelled(org, '_')}")
    if kind == "client" and (not CLIENT_NAME.fullmatch(name) or name == ADMIN_FOLDER):
        rule = "is the admin's folder" if name == ADMIN_FOLDER else "has to be of letters, digits, - and _"
        raise refusal(f"{who}: a client's name {rule}", f"name: {_spelled(name, '-') if name != ADMIN_FOLDER else 'site-3'}")
    if kind == "server" and not HOST_NAME.fullmatch(name):
        raise refusal(f"{who}: a server's name has to be a host name", "name: server, and its public names as SERVER_NAMES in .env")
    if kind == "admin" and not ADMIN_NAME.fullmatch(name):
        raise refusal(f"{who}: an admin's name has to look like a mail address", f"name: {_spelled(name, '.')}@example.org")


def refusal(problem: str, proposal: str) -> ProvisionError:
    """What is wrong with project.yml, and what to write instead."""
    return ProvisionError(f"project.yml: {problem}\n  next: {proposal}")


def _spelled(text: str, filler: str) -> str:
    return re.sub("[^A-Za-z0-9]+", filler, text).strip(filler) or "x"
