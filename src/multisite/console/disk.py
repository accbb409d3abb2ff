"""What the deployment takes of the engine's disk, for `make status`."""

from __future__ import annotations

import os
from pathlib import Path

from multisite.console.docker import Docker

SHOWN_BYTES = 1e6  # less is not worth a word


def folder_bytes(folder: Path) -> float:
    """Bytes of the files below a folder of this host; 0 where there is none."""
    return float(sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())) if folder.is_dir() else 0.0


def line(docker: Docker, results: Path) -> str:
    """One line for a person; empty where nothing is known."""
    held = docker.volumes()
    if not held:
        return ""
    shown = [f"{name} {_text(size)}" for name, size in sorted(held.items(), key=lambda item: -item[1]) if size >= SHOWN_BYTES]
    here = folder_bytes(results)
    parts = [*shown, *([f"{os.path.basename(results)}/ on this host {_text(here)}"] if here >= SHOWN_BYTES else [])]
    return f"disk: {_text(sum(held.values()) + here)}{': ' + ', '.join(parts) if parts else ''}"


def _text(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
