"""What the deployment takes of the engine's disk, for `make status`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from multisite.console.docker import Docker

UNITS = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
SIZE = re.compile(r"([0-9.]+)([kKMGT]?B)")
SHOWN_BYTES = 1e6  # less is not worth a word
DISK_SECONDS = 60.0  # the engine looks at every file of every volume


def volumes(docker: Docker) -> dict[str, float]:
    """Bytes of each of the deployment's volumes, by its name in compose.yaml; empty where the engine does not say."""
    result = docker.run(["system", "df", "--verbose", "--format", "{{json .Volumes}}"], seconds=DISK_SECONDS)
    try:
        listed = json.loads(result.out)
    except ValueError:
        return {}
    prefix = f"{docker.project}_"
    found = {}
    for volume in listed if isinstance(listed, list) else []:
        size = SIZE.fullmatch(str(volume.get("Size", "")))
        if size and str(volume.get("Name", "")).startswith(prefix):
            found[str(volume["Name"])[len(prefix) :]] = float(size[1]) * UNITS[size[2]]
    return found


def folder_bytes(folder: Path) -> float:
    """Bytes of the files below a folder of this host; 0 where there is none."""
    return float(sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())) if folder.is_dir() else 0.0


def line(docker: Docker, results: Path) -> str:
    """One line for a person; empty where nothing is known."""
    held = volumes(docker)
    if not held:
        return ""
    shown = [f"{name} {_text(size)}" for name, size in sorted(held.items(), key=lambda item: -item[1]) if size >= SHOWN_BYTES]
    here = folder_bytes(results)
    parts = [*shown, *([f"{os.path.basename(results)}/ on this host {_text(here)}"] if here >= SHOWN_BYTES else [])]
    return f"disk: {_text(sum(held.values()) + here)}{': ' + ', '.join(parts) if parts else ''}"


def _text(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
