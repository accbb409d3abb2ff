"""The whole job in NVFlare's simulator: for data scientists without Docker, and for tests."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.recipe import SimEnv

from multisite.cifar10 import prepare
from multisite.cifar10.partition import Partition
from multisite.job import outcome
from multisite.job.client import DATA
from multisite.job.components import OUR_COMPONENTS
from multisite.job.options import UNKNOWN, JobOptions
from multisite.job.progress import RESULTS
from multisite.job.recipe import NAME, Cifar10Recipe
from multisite.tracking.spool import JOB_VARIABLE, ROOT_VARIABLE


def site_names(count: int) -> list[str]:
    """site-1, site-2, ..."""
    return [f"site-{number}" for number in range(1, count + 1)]


def prepare_data(options: JobOptions, data: Path, cifar10: Path | None, limit: int | None) -> str:
    """Writes the shards of `options`'s partition under `data`/<site> and returns the dataset's name."""
    arguments = ["--out", str(data), "--sites", ",".join(site_names(options.sites)), "--seed", str(options.seed)]
    source = "auto" if options.dataset == UNKNOWN else options.dataset
    arguments += ["--source", source, "--cache", str(data / "cache")]
    if options.alpha is not None:
        arguments += ["--alpha", str(options.alpha)]
    if cifar10:
        arguments += ["--local", str(cifar10)]
    if limit:
        arguments += ["--limit", str(limit)]
    if code := prepare.main(arguments):
        raise SystemExit(code)
    partition = Partition(options.sites, options.alpha, options.seed)
    manifest = data / "site-1" / partition.name / "manifest.json"
    return str(json.loads(manifest.read_text(encoding="utf-8"))["dataset"])


def simulate(options: JobOptions, data: Path, workspace: Path) -> int:
    """Runs the job and prints what it reached and where its results are.

    Returns:
        The exit status: 0 if every round completed.
    """
    workspace = workspace.resolve()
    os.environ[DATA] = str(data.resolve() / "{site}")
    os.environ.setdefault(ROOT_VARIABLE, str(workspace / "spool"))
    os.environ[JOB_VARIABLE] = f"simulation-{uuid.uuid4().hex[:12]}"
    _allow_our_components(workspace / NAME)
    sites = site_names(options.sites)
    recipe = Cifar10Recipe(options, sites)
    try:
        recipe.execute(SimEnv(clients=sites, workspace_root=str(workspace)))
    except RuntimeError as error:  # the job failed: why, is in its report, and in the log that this names
        print(error, file=sys.stderr)
    results = next((workspace / NAME).rglob(RESULTS), None)
    report: dict[str, Any] = (
        json.loads(results.read_text(encoding="utf-8")) if results else {"rows": [], "errors": {}, "complete": False}
    )
    final = [row for row in report["rows"] if row["round"] == options.rounds]
    for row in final:
        print(f"{row['site']}: final global model's accuracy {row['accuracy']:.4f} on {options.dataset.upper()}")
    for line in outcome.lines(report.get("final"), report.get("best"), options.dataset.upper()):
        print(line)
    for site, reason in report["errors"].items():
        print(f"{site}: {reason}")
    print(f"results: {results.parent if results else workspace}")
    return 0 if report["complete"] and len(final) == options.sites else 1


def _allow_our_components(workspace: Path) -> None:
    """The simulator's site policy: NVFlare's own list and ours, as provisioning writes it for real sites."""
    local = workspace / "local"
    local.mkdir(parents=True, exist_ok=True)
    policy = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, *OUR_COMPONENTS]}
    (local / "resources.json").write_text(json.dumps(policy, indent=1), encoding="utf-8")
