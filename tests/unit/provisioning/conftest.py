"""A deployment that NVFlare's own tool has provisioned once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from multisite.provisioning.project import effective_project
from multisite.provisioning.provision import Provisioner, Renewal

PROJECT = Path(__file__).parents[3] / "project.yml"
FOLDERS = ("server", "site-1", "site-2", "admin")
ADMIN = "admin@multisite.example"
EVERYBODY = ["server", "site-1", "site-2", ADMIN]
PUBLIC = ["fl.example.org", "203.0.113.7"]
PORT = 9002


def project(names: list[str] | None = None, port: int = PORT, sites: tuple[str, ...] = ()) -> dict[str, Any]:
    """The project's own file with the settings, and more sites."""
    content = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    content["participants"] += [{"name": site, "type": "client", "org": "multisite"} for site in sites]
    return effective_project(content, PUBLIC if names is None else names, port)


@dataclass(frozen=True)
class Place:
    """Folders of one provisioned deployment."""

    state: Path
    kits: Path

    def renew(self, content: dict[str, Any]) -> Renewal:
        return Provisioner(content, self.state, self.kits).run()

    def run(self, content: dict[str, Any]) -> list[str]:
        """Whose kit is new here."""
        return self.renew(content).here

    @property
    def latest(self) -> Path:
        """The kits that NVFlare made last; those of before are gone."""
        (found,) = (self.state / "multisite").glob("prod_*")
        return found

    def certificate(self, folder: str) -> bytes:
        return (self.kits / folder / "startup" / ("server.crt" if folder == "server" else "client.crt")).read_bytes()

    def read(self, folder: str, *path: str) -> Any:
        return json.loads(self.kits.joinpath(folder, *path).read_text(encoding="utf-8"))

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """Time and content of every file of the kits."""
        return {str(path.relative_to(self.kits)): (path.stat().st_mtime_ns, path.read_bytes())
                for path in sorted(self.kits.rglob("*")) if path.is_file()}  # fmt: skip


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Provisioned once; not to be changed."""
    home = tmp_path_factory.mktemp("provisioned")
    place = Place(home / "state", home / "kits")
    place.state.mkdir()
    for name in FOLDERS:
        (place.kits / name).mkdir(parents=True)
    assert place.run(project()) == EVERYBODY
    return place


@pytest.fixture
def place(first: Place, tmp_path: Path) -> Place:
    """A copy of the provisioned deployment, to go on from."""
    for name in ("state", "kits"):
        shutil.copytree(getattr(first, name), tmp_path / name)
    return Place(tmp_path / "state", tmp_path / "kits")
