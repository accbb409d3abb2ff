"""One whole job in containers, with the NVFlare and the patches that NVFLARE and PATCHES name: docker/test.sh runs it by its name."""

from __future__ import annotations

import json
import os

from multisite import nvflare_patches
from tests.e2e.stack import PROJECT, Stack, job_id_in

NVFLARE, PATCHES = os.environ.get("NVFLARE", ""), os.environ.get("PATCHES", "")
SITES, ROUNDS = ("site-1", "site-2"), 3
APPLIED = "from multisite import nvflare_patches; print(*nvflare_patches.apply())"
VERSION = "import importlib.metadata; print(importlib.metadata.version('nvflare'))"


def test_a_job_completes_with_the_chosen_nvflare_and_patches(stack: Stack) -> None:
    """Without any patch too, only slower (docs/performance.md)."""
    for service in ("server", *SITES):
        version = stack.execute(service, "python", "-c", VERSION).text.strip()
        if locked := {"": "control.txt", "next": "next.txt"}.get(NVFLARE):
            assert f"nvflare=={version} " in (PROJECT / "docker" / "requirements" / locked).read_text(encoding="utf-8")
        applied = stack.execute(service, "python", "-c", APPLIED).text.split()
        assert NVFLARE == "newest" or applied == list(nvflare_patches.chosen(PATCHES))
    done = stack.submit(ROUNDS=str(ROUNDS))
    assert done.code == 0, done.text
    print(f"NVFlare {version}, patches: {', '.join(applied) or 'none'}; {ROUNDS} rounds in {done.seconds:.1f} s")
    results = stack.home / "results" / job_id_in(done.text)
    rows = json.loads((results / "rounds.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["site"], row["round"]) for row in rows} == {(site, round_) for site in SITES for round_ in range(ROUNDS + 1)}
    account = json.loads((results / "tracking.json").read_text(encoding="utf-8"))
    assert all(counts["delivered"] == counts["logged"] > 0 for counts in account["sites"].values())
