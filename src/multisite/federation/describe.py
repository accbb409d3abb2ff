"""What a site says of itself to `make up`: name, device, and examples by partition, without importing torch or NVFlare."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path("/data")


def describe(data: Path = DATA) -> dict[str, Any]:
    """The site's device and its shards' examples."""
    shards = {}
    for path in sorted([*data.glob("*/manifest.json"), *data.glob("manifest.json")]):
        content = json.loads(path.read_text(encoding="utf-8"))
        shards[content["partition"]] = {name: content.get(name) for name in ("examples", "dataset", "alpha", "seed")}
    return {"device": device(), "shards": shards}


def device() -> str:
    """The GPU that the container sees, or its CPUs."""
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
        if listed.returncode == 0 and listed.stdout.strip():
            return "cuda: " + listed.stdout.strip().splitlines()[0]
    return f"cpu ({len(os.sched_getaffinity(0))} cores)"


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
