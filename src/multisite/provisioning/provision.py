"""The provision one-shot: startup kits from project.yml, each into its participant's own volume.

A second run with the same project, settings and NVFlare changes nothing. A new participant gets a kit while the others keep theirs
(NVFlare keeps the root and the certificates in its state folder, which is mounted into no running container). New public names
or another port renew the server's certificate. Another scheme, or another release of NVFlare, makes every kit anew.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multisite.job.components import OUR_COMPONENTS
from multisite.provisioning import handout
from multisite.provisioning.handout import STAMP
from multisite.provisioning.kit import Kit, KitError, read_kit, server_names
from multisite.provisioning.project import ProvisionError, effective_project, refusal, scheme_of, server_of

PROVISION_SECONDS = 120
POLICY = Path(__file__).with_name("policy.py")  # by its place: it imports NVFlare, and most runs have nothing to provision


def made_from(project: dict[str, Any]) -> dict[str, str]:
    """What kits are made from: the effective project and our policy (as a digest), NVFlare's release, and the project's scheme."""
    text = json.dumps([project, OUR_COMPONENTS], sort_keys=True) + POLICY.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"digest": digest, "NVFlare": importlib.metadata.version("nvflare"), "scheme": scheme_of(project)}


@dataclass(frozen=True)
class Renewal:
    """What a run did, or would do.

    Attributes:
        here: the participants of this host whose kit is new.
        elsewhere: the sites on other hosts whose kit of now was not written by `make kit` yet.
        causes: what concerns every kit and is another than before: NVFlare's release, the scheme.
    """

    here: list[str]
    elsewhere: list[str]
    causes: list[str]

    def __str__(self) -> str:
        """For a person; the last line is for `console.containers` too."""
        lines = [f"{site} is on another host and needs its new kit: make kit SITE={site}" for site in self.elsewhere]
        if self.causes and (self.here or self.elsewhere):
            lines.insert(0, f"kits are made anew: {', '.join(self.causes)}")
        return "\n".join([*lines, f"new kits: {', '.join(self.here)}" if self.here else "kits are up to date"])


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

    def run(self, hand_out: bool = True) -> Renewal:
        """Provisions if something changed.

        Args:
            hand_out: False leaves the participants' folders as they are.

        Raises:
            ProvisionError: NVFlare could not provision.
            KitError: a kit has expired.
        """
        server = server_of(self.project)["name"]
        if not (self.kits / server).is_dir():
            raise refusal(
                f"the server is called {server}, and its container server", f"name: server, and SERVER_NAMES={server} in .env"
            )
        self._check_local_sites()
        before, now = self._made_from(), made_from(self.project)
        if before != now or self._latest() is None:
            self._provision()
        here, elsewhere = self._hand_out(hand_out)
        (self.state / STAMP).write_text(json.dumps(now), encoding="utf-8")
        return Renewal(
            here,
            elsewhere,
            [
                f"{name} is {now[name]} and was {before[name]}"
                for name in ("NVFlare", "scheme")
                if before.get(name, now[name]) != now[name]
            ],
        )

    def _check_local_sites(self) -> None:
        """A site of this host that project.yml does not name would go on with the kit of before, under its old name."""
        names = {handout.folder_name(participant) for participant in self.project["participants"]}
        for folder in sorted(self.kits.iterdir()):
            if handout.is_mounted(folder) and folder.name not in names:
                raise refusal(
                    f"it has no {folder.name}, and compose.yaml runs that site on this host",
                    f"name: {folder.name} (a site of this host is called as its service), or take {folder.name} out of compose.yaml",
                )

    def kit(self, site: str) -> Kit:
        """A site's current kit.

        Raises:
            ProvisionError: it has none.
            KitError: it has expired.
        """
        latest = self._latest()
        kinds = {handout.folder_name(one): one["type"] for one in self.project["participants"]}
        kinds |= {one["name"]: one["type"] for one in self.project["participants"]}
        if site in kinds and kinds[site] != "client":
            sites = [name for name, kind in kinds.items() if kind == "client"]
            raise ProvisionError(
                f"{site} is the {kinds[site]} and stays on this host: kits are for sites on other hosts"
                f"\n  next: make kit SITE={sites[-1]} (the sites of project.yml: {', '.join(sites)})"
            )
        if site not in kinds:
            raise ProvisionError(f"project.yml has no site {site}\n  next: add it there as a client, make up, make kit SITE={site}")
        if latest is None or not (latest / site).is_dir():
            raise ProvisionError(f"the site {site} has no kit yet\n  next: make up, make kit SITE={site}")
        kit = read_kit(latest / site)
        kit.check_valid()
        return kit

    def _made_from(self) -> dict[str, str]:
        """As `made_from`, of the last run that succeeded; empty where none did, or an older release of this project noted it otherwise."""
        try:
            noted = json.loads((self.state / STAMP).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _latest(self) -> Path | None:
        return max(self.home.glob("prod_*"), default=None)

    def _provision(self) -> None:
        self._keep_latest()
        self._forget_old_server()
        project_file = self.state / "project.effective.yml"
        project_file.write_text(yaml.safe_dump(self.project, sort_keys=False), encoding="utf-8")
        # The parent folder of the project is NVFlare's workspace; --force answers its question about an existing one.
        command = ["nvflare", "provision", "-p", str(project_file), "-w", str(self.state), "--force"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROVISION_SECONDS, check=False)
        if done.returncode:
            output = (done.stdout + done.stderr).strip()[-2000:]
            raise ProvisionError(f"nvflare provision failed ({done.returncode}):\n{output}\n  next: correct project.yml")
        self._keep_latest()
        for secret in self.home.glob("state/*"):
            secret.chmod(0o600)  # cert.json holds the root key

    def _keep_latest(self) -> None:
        """Drops the kits of before, and keeps NVFlare's number of the latest low: after prod_99 it makes no more, without an error."""
        *older, latest = sorted(self.home.glob("prod_*")) or [self.home / "prod_00"]
        for folder in older:
            shutil.rmtree(folder)
        if latest.exists():
            latest.rename(self.home / "prod_00")

    def _forget_old_server(self) -> None:
        """Where the server's names have changed, drops its certificate from NVFlare's state, so that one with the current names is made."""
        state, latest = self.home / "state" / "cert.json", self._latest()
        server = server_of(self.project)
        wanted = {server["name"], server["default_host"], *server["host_names"]}
        held = latest / server["name"] if latest else None
        if not state.exists() or (held and held.is_dir() and set(server_names(held)) == wanted):
            return
        content = json.loads(state.read_text(encoding="utf-8"))
        content.pop(server["name"], None)
        state.write_text(json.dumps(content), encoding="utf-8")

    def _hand_out(self, hand_out: bool) -> tuple[list[str], list[str]]:
        latest = self._latest()
        assert latest is not None
        kits = [(participant, read_kit(latest / participant["name"])) for participant in self.project["participants"]]
        for _, kit in kits:  # all of them before the first is handed out
            kit.check_valid()
        here, elsewhere = [], []
        for participant, kit in kits:
            target = self.kits / handout.folder_name(participant)
            if handout.is_mounted(target):
                if not handout.holds(target, kit):
                    here.append(participant["name"])
                    if hand_out:
                        handout.replace(target, kit)
            elif participant["type"] == "client" and not handout.is_exported(self.state, kit):
                elsewhere.append(participant["name"])
        return here, elsewhere


def dry_run(project: dict[str, Any], state: Path, kits: Path) -> Renewal:
    """What a run would do; made on a copy of the state, which is gone afterwards.

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
    parser.add_argument(
        "--export", metavar="SITE", help="write that site's kit to standard output, as a tar archive, and nothing else"
    )
    arguments = parser.parse_args()
    names = [name.strip() for name in os.environ.get("SERVER_NAMES", "").split(",") if name.strip()]
    try:
        text = arguments.project.read_text(encoding="utf-8")
        project = effective_project(yaml.safe_load(text), names, int(os.environ.get("SERVER_PORT") or 8002))
        if arguments.export is not None:
            handout.export(
                arguments.state, Provisioner(project, arguments.state, arguments.kits).kit(arguments.export), sys.stdout.buffer
            )
        elif arguments.dry_run:
            print(dry_run(project, arguments.state, arguments.kits))
        else:
            print(Provisioner(project, arguments.state, arguments.kits).run())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        print(
            f"provision: project.yml{place}: no valid YAML ({problem})\n  next: correct that line and the one before it",
            file=sys.stderr,
        )
        return 2
    except PermissionError as error:
        print(
            f"provision: {error.filename}: {error.strerror}\n  next: let the container's user (1000) read it: chmod a+r project.yml",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"provision: {error}\n  next: free disk space, or check project.yml", file=sys.stderr)
        return 2
    except (ProvisionError, KitError) as error:
        print(f"provision: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
