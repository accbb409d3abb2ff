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
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from multisite.federation.kit import KitError, read_kit

PROVISION_SECONDS = 120
STAMP = "digest"
POLICY = Path(__file__).with_name("policy.py")  # by its place: it imports NVFlare, and most runs have nothing to provision


class ProvisionError(Exception):
    """Provisioning can't go on. The message ends with the next step."""


def effective_project(project: dict[str, Any], server_names: list[str], port: int) -> dict[str, Any]:
    """project.yml with the settings applied: the server's public names and its port.

    Raises:
        ProvisionError: not exactly one server, or no site.
    """
    participants = project.get("participants") or []
    servers = [participant for participant in participants if participant.get("type") == "server"]
    if len(servers) != 1 or not any(participant.get("type") == "client" for participant in participants):
        raise ProvisionError("project.yml needs exactly one server and at least one client\n  next: correct its participants")
    server = servers[0]
    server["fed_learn_port"] = server["admin_port"] = port
    server["default_host"] = server["name"]
    server["host_names"] = [name for name in server_names if name != server["name"]]
    return project


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

    def run(self) -> list[str]:
        """Provisions if something changed.

        Returns:
            The participants whose kit is new.

        Raises:
            ProvisionError: NVFlare could not provision.
            KitError: a kit has expired.
        """
        stamp = self.state / STAMP
        current = digest(self.project)
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != current or self._latest() is None:
            self._provision()
        changed = self._hand_out()
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
        """Drops the server's certificate from NVFlare's state, so that one with the current names is made."""
        state = self.home / "state" / "cert.json"
        if not state.exists():
            return
        content = json.loads(state.read_text(encoding="utf-8"))
        for participant in self.project["participants"]:
            if participant["type"] == "server":
                content.pop(participant["name"], None)
        state.write_text(json.dumps(content), encoding="utf-8")

    def _hand_out(self) -> list[str]:
        latest = self._latest()
        assert latest is not None
        changed = []
        for participant in self.project["participants"]:
            kit = read_kit(latest / participant["name"])
            kit.check_valid()
            target = self.kits / folder_name(participant)
            # Only a mounted volume is writable here; the kit of a site on another host stays in the state folder.
            if os.access(target, os.W_OK) and _replace(kit.folder, target):
                changed.append(participant["name"])
        return changed


def folder_name(participant: dict[str, Any]) -> str:
    """The folder (and volume) of a participant's kit: its name, or `admin` for an admin."""
    return "admin" if participant["type"] == "admin" else str(participant["name"])


def _fingerprint(folder: Path) -> str:
    state = hashlib.sha256()
    for part in ("startup", "local"):
        for path in sorted((folder / part).glob("*")):
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def _replace(source: Path, target: Path) -> bool:
    """Copies a kit unless `target` already holds it; the marker is written last, for the participant that watches it."""
    fingerprint = _fingerprint(source)
    marker = target / STAMP
    if marker.exists() and marker.read_text(encoding="utf-8") == fingerprint:
        return False
    for part in ("startup", "local"):
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(source / part, target / part)
    for key in target.glob("startup/*.key"):
        key.chmod(0o600)
    marker.write_text(fingerprint, encoding="utf-8")
    return True


def main() -> int:
    """Command of the one-shot; settings come from the environment (SERVER_NAMES, SERVER_PORT)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=Path("/project.yml"))
    parser.add_argument("--state", type=Path, default=Path("/provision"))
    parser.add_argument("--kits", type=Path, default=Path("/kits"))
    arguments = parser.parse_args()
    names = [name.strip() for name in os.environ.get("SERVER_NAMES", "").split(",") if name.strip()]
    try:
        text = arguments.project.read_text(encoding="utf-8")
        project = effective_project(yaml.safe_load(text), names, int(os.environ.get("SERVER_PORT") or 8002))
        changed = Provisioner(project, arguments.state, arguments.kits).run()
    except yaml.YAMLError as error:
        print(f"provision: project.yml is not valid YAML: {error}\n  next: correct it", file=sys.stderr)
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
