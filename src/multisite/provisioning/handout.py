"""Whose hands a kit is in: the mounted folder of a participant on this host, or a site on another host that `make kit` wrote it for."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any

from multisite.provisioning.kit import Kit
from multisite.provisioning.project import ADMIN_FOLDER

STAMP = "digest"
PARTS = ("startup", "local")
EXPORTED = "exported"  # folder of the provisioning state: site -> fingerprint of the kit that was last written for it


def folder_name(participant: dict[str, Any]) -> str:
    """The folder (and volume) of a participant's kit: its name, or `admin` for an admin."""
    return ADMIN_FOLDER if participant["type"] == "admin" else str(participant["name"])


def is_mounted(folder: Path) -> bool:
    """Whether a participant runs on this host: only a mounted volume is writable, and the image's own folder is not."""
    return os.access(folder, os.W_OK)


def fingerprint(folder: Path) -> str:
    """Of a kit's files."""
    state = hashlib.sha256()
    for part in PARTS:
        for path in sorted((folder / part).glob("*")):
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def holds(target: Path, kit: Kit) -> bool:
    """Whether a participant's folder holds this kit."""
    return _reads(target / STAMP, fingerprint(kit.folder))


def replace(target: Path, kit: Kit) -> None:
    """Copies a kit into a participant's folder; the marker is written last, for the participant that watches it."""
    for part in PARTS:
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(kit.folder / part, target / part)
    for key in target.glob("startup/*.key"):
        key.chmod(0o600)
    (target / STAMP).write_text(fingerprint(kit.folder), encoding="utf-8")


def is_exported(state: Path, kit: Kit) -> bool:
    """Whether this kit is the one that was last written for its site."""
    return _reads(state / EXPORTED / kit.name, fingerprint(kit.folder))


def export(state: Path, kit: Kit, stream: IO[bytes]) -> None:
    """Writes a site's kit as a tar archive, and notes in the provisioning state that the site has it.

    Raises:
        OSError: it can't be written.
    """
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.add(kit.folder, arcname=kit.name)
    stream.flush()
    note = state / EXPORTED / kit.name
    note.parent.mkdir(exist_ok=True)
    note.write_text(fingerprint(kit.folder), encoding="utf-8")


def _reads(marker: Path, text: str) -> bool:
    return marker.exists() and marker.read_text(encoding="utf-8") == text
