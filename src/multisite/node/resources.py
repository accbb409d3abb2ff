"""What a site has to offer, given to NVFlare's own `report_resources`: its device, and examples by partition. No torch is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.resource_managers.gpu_resource_manager import GPUResourceManager

DATA = Path("/data")


class SiteResources(GPUResourceManager):
    """NVFlare's resource manager, whose report is longer (`local/resources.json`, `resource_manager`)."""

    def report_resources(self, fl_ctx: FLContext) -> dict[str, Any]:
        """NVFlare's report with `device` and `shards`."""
        return {**super().report_resources(fl_ctx), "device": device(), "shards": shards()}


def shards(data: Path = DATA) -> dict[str, dict[str, Any]]:
    """What the site's shards hold, by partition: examples, dataset, alpha, seed."""
    found = {}
    for path in sorted([*data.glob("*/manifest.json"), *data.glob("manifest.json")]):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[content["partition"]] = {name: content.get(name) for name in ("examples", "dataset", "alpha", "seed")}
    return found


def device() -> str:
    """The GPU that the container sees, or its CPUs."""
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
        if listed.returncode == 0 and listed.stdout.strip():
            return "cuda: " + listed.stdout.strip().splitlines()[0]
    return f"cpu ({len(os.sched_getaffinity(0))} cores)"
