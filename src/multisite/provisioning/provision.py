"""The provision one-shot: startup kits from project.yml, each into its participant's own volume.

A second run with the same project and settings changes nothing. A new participant gets a kit while the others keep theirs
(NVFlare keeps the root and the certificates in its state folder, which is mounted into no running container). New public names
or another port renew the server's certificate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from multisite.provisioning.kit import KitError, read_kit, server_names

PROVISION_SECONDS = 120
STAMP = "digest"
ADMIN_FOLDER = "admin"
TYPES = ("server", "client", "admin")
EXAMPLES = {"name": "site-3", "type": "client", "org": "hospital_c", "role": "project_admin"}
# NVFlare's own, see nvflare/apis/utils/format_check.py.
ORG = re.compile(r"[A-Za-z0-9_]+")
CLIENT_NAME = re.compile(r"[A-Za-z0-9_-]+")
HOST_NAME = re.compile(r"(([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])\.)*([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])")
ADMIN_NAME = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
PROJECT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
POLICY = Path(__file__).with_name("policy.py")  # by its place: it imports NVFlare, and most runs have nothing to provision


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
    server = _server(project)
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
        raise _refusal("it has no list of participants", "give it one; git diff project.yml shows what has changed")
    if not PROJECT_NAME.fullmatch(str(project.get("name", ""))):
        raise _refusal(f"its name is {project.get('name')!r}: letters, digits, _, - and . only", "name: multisite")
    for number, participant in enumerate(participants, 1):
        _check_participant(participant, number)
    names = [participant["name"] for participant in participants]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _refusal(f"{names.count(twice)} participants are called {twice}", "give each a name of its own")
    by_type = {kind: [one["name"] for one in participants if one["type"] == kind] for kind in TYPES}
    if len(by_type["server"]) != 1:
        held = f"{len(by_type['server'])} servers ({', '.join(by_type['server'])})" if by_type["server"] else "no server"
        raise _refusal(f"it has {held}: it needs exactly one", "leave one participant with type: server")
    for kind in ("client", "admin"):
        if not by_type[kind]:
            raise _refusal(f"it has no {kind}: it needs at least one", f"add a participant with type: {kind}")


def _server(project: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in project["participants"] if one["type"] == "server")


def _check_participant(participant: dict[str, Any], number: int) -> None:
    who = f"participant {participant.get('name') or number}"
    for key in ("name", "type", "org", *(["role"] if participant.get("type") == "admin" else [])):
        if not isinstance(participant.get(key), str) or not participant[key]:
            raise _refusal(f"{who}: {key} is {participant.get(key)!r}, it has to be a text", f"{key}: {EXAMPLES[key]}")
    name, kind, org = participant["name"], participant["type"], participant["org"]
    if kind not in TYPES:
        raise _refusal(f"{who}: type {kind!r} is not one of {', '.join(TYPES)}", "type: client, for a site")
    if not ORG.fullmatch(org):
        raise _refusal(f"{who}: org {org!r} has to be of letters, digits and _", f"org: {_spelled(org, '_')}")
    if kind == "client" and (not CLIENT_NAME.fullmatch(name) or name == ADMIN_FOLDER):
        rule = "is the admin's folder" if name == ADMIN_FOLDER else "has to be of letters, digits, - and _"
        raise _refusal(f"{who}: a client's name {rule}", f"name: {_spelled(name, '-') if name != ADMIN_FOLDER else 'site-3'}")
    if kind == "server" and not HOST_NAME.fullmatch(name):
        raise _refusal(
            f"{who}: a server's name has to be a host name", "name: server, and its public names as SERVER_NAMES in .env"
        )
    if kind == "admin" and not ADMIN_NAME.fullmatch(name):
        raise _refusal(f"{who}: an admin's name has to look like a mail address", f"name: {_spelled(name, '.')}@example.org")


def _refusal(problem: str, proposal: str) -> ProvisionError:
    return ProvisionError(f"project.yml: {problem}\n  next: {proposal}")


def _spelled(text: str, filler: str) -> str:
    return re.sub("[^A-Za-z0-9]+", filler, text).strip(filler) or "x"


def digest(project: dict[str, Any]) -> str:
    """Identifies what the kits were made from: the effective project and our policy."""
    text = json.dumps(project, sort_keys=True) + POLICY.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


class Provisioner:
    """Makes and hands out kits.

    Args:
        project: the effective project.
        state: folder that keeps NVFlare's state and every kit.
        kits: folder with one (mounted) folder a local participant.
    """

    def __init__(self, project: dict[str, Any], state: Path, kits: Path) -> None:
        self.project = project
        self.state = state
        self.kits = kits
        self.home = state / str(project["name"])

    def run(self, hand_out: bool = True) -> list[str]:
        """Provisions if something changed.

        Returns:
            The participants whose kit is new, or would be.

        Raises:
            ProvisionError: NVFlare could not provision.
            KitError: a kit has expired.
        """
        server = _server(self.project)["name"]
        if not (self.kits / server).is_dir():
            raise _refusal(
                f"the server is called {server}, and its container server", f"name: server, and SERVER_NAMES={server} in .env"
            )
        stamp = self.state / STAMP
        current = digest(self.project)
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != current or self._latest() is None:
            self._provision()
        changed = self._hand_out(hand_out)
        stamp.write_text(current, encoding="utf-8")
        return changed

    def _latest(self) -> Path | None:
        return max(self.home.glob("prod_*"), default=None)

    def _provision(self) -> None:
        self._forget_old_server()
        project_file = self.state / "project.effective.yml"
        project_file.write_text(yaml.safe_dump(self.project, sort_keys=False), encoding="utf-8")
        # The parent folder of the project is NVFlare's workspace; --force answers its question about an existing one.
        command = ["nvflare", "provision", "-p", str(project_file), "-w", str(self.state), "--force"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROVISION_SECONDS, check=False)
        if done.returncode:
            output = (done.stdout + done.stderr).strip()[-2000:]
            raise ProvisionError(f"nvflare provision failed ({done.returncode}):\n{output}\n  next: correct project.yml")
        for older in sorted(self.home.glob("prod_*"))[:-1]:
            shutil.rmtree(older)
        for secret in self.home.glob("state/*"):
            secret.chmod(0o600)  # cert.json holds the root key

    def _forget_old_server(self) -> None:
        """Where the server's names have changed, drops its certificate from NVFlare's state, so that one with the current names is made."""
        state, latest = self.home / "state" / "cert.json", self._latest()
        server = _server(self.project)
        wanted = {server["name"], server["default_host"], *server["host_names"]}
        held = latest / server["name"] if latest else None
        if not state.exists() or (held and held.is_dir() and set(server_names(held)) == wanted):
            return
        content = json.loads(state.read_text(encoding="utf-8"))
        content.pop(server["name"], None)
        state.write_text(json.dumps(content), encoding="utf-8")

    def _hand_out(self, hand_out: bool) -> list[str]:
        latest = self._latest()
        assert latest is not None
        kits = [(participant, read_kit(latest / participant["name"])) for participant in self.project["participants"]]
        for _, kit in kits:  # all of them before the first is handed out
            kit.check_valid()
        changed = []
        for participant, kit in kits:
            target = self.kits / folder_name(participant)
            # Only a mounted volume is writable here; the kit of a site on another host stays in the state folder.
            if os.access(target, os.W_OK) and not _holds(target, kit.folder):
                changed.append(participant["name"])
                if hand_out:
                    _replace(kit.folder, target)
        return changed


def folder_name(participant: dict[str, Any]) -> str:
    """The folder (and volume) of a participant's kit: its name, or `admin` for an admin."""
    return ADMIN_FOLDER if participant["type"] == "admin" else str(participant["name"])


def _fingerprint(folder: Path) -> str:
    state = hashlib.sha256()
    for part in ("startup", "local"):
        for path in sorted((folder / part).glob("*")):
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def _holds(target: Path, source: Path) -> bool:
    marker = target / STAMP
    return marker.exists() and marker.read_text(encoding="utf-8") == _fingerprint(source)


def _replace(source: Path, target: Path) -> None:
    """Copies a kit; the marker is written last, for the participant that watches it."""
    for part in ("startup", "local"):
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(source / part, target / part)
    for key in target.glob("startup/*.key"):
        key.chmod(0o600)
    (target / STAMP).write_text(_fingerprint(source), encoding="utf-8")


def dry_run(project: dict[str, Any], state: Path, kits: Path) -> list[str]:
    """Whose kit a run would change; made on a copy of the state, which is gone afterwards.

    Raises:
        ProvisionError: as the run.
        KitError: as the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "state"
        shutil.copytree(state, copy)
        return Provisioner(project, copy, kits).run(hand_out=False)


def main() -> int:
    """Command of the one-shot; settings come from the environment (SERVER_NAMES, SERVER_PORT)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=Path("/project.yml"))
    parser.add_argument("--state", type=Path, default=Path("/provision"))
    parser.add_argument("--kits", type=Path, default=Path("/kits"))
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and say whose kit would be new")
    arguments = parser.parse_args()
    names = [name.strip() for name in os.environ.get("SERVER_NAMES", "").split(",") if name.strip()]
    try:
        text = arguments.project.read_text(encoding="utf-8")
        project = effective_project(yaml.safe_load(text), names, int(os.environ.get("SERVER_PORT") or 8002))
        if arguments.dry_run:
            changed = dry_run(project, arguments.state, arguments.kits)
        else:
            changed = Provisioner(project, arguments.state, arguments.kits).run()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        print(
            f"provision: project.yml{place}: no valid YAML ({problem})\n  next: correct that line and the one before it",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"provision: {error}\n  next: free disk space, or check project.yml", file=sys.stderr)
        return 2
    except (ProvisionError, KitError) as error:
        print(f"provision: {error}", file=sys.stderr)
        return 2
    print(f"new kits: {', '.join(changed)}" if changed else "kits are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
