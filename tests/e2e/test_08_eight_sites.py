"""Eight sites and a million values: everything arrives, and memory stays where it was. Part of `make test-faults`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.drill.job import Drill, spool
from tests.e2e.drill.script import expected
from tests.e2e.more_sites import more_sites
from tests.e2e.stack import Stack
from tests.wandb_backend.client import rows

pytestmark = pytest.mark.skipif(os.environ.get("FAULTS") != "all", reason="part of `make test-faults`")
SITES = 8
FLAT_MIB = 12.0
RSS = """
import json, pathlib
found = {}
for p in pathlib.Path('/proc').iterdir():
    if p.name.isdigit():
        try:
            line = (p / 'cmdline').read_bytes().replace(b'\\0', b' ').decode()
            pages = int((p / 'statm').read_text().split()[1])
        except OSError:
            continue
        for name in ('multisite.node', 'tracking.writer', 'wandb-core'):
            if name in line and not line.startswith('/sbin'):
                found[name] = found.get(name, 0) + pages * 4096 / 2**20
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["server", "clients"])
def clients(request: pytest.FixtureRequest) -> bool:
    """Both ways of streaming: whether the sites deliver."""
    return bool(request.param == "clients")


@pytest.fixture(scope="module")
def eight(stack: Stack, clients: bool) -> Iterator[Stack]:
    """The deployment with six more sites."""
    with more_sites(stack, SITES, clients):
        yield stack


def check(stack: Stack, job: Drill, job_id: str) -> None:
    """Everything of every site, by one look at the backend."""
    by_name = {str(run["display_name"]): run for run in stack.backend().runs() if job_id in str(run["group"])}
    wanted = expected(job.rounds, job.values, job.pattern)
    for site in job.site_names():
        found = [(row["id"], row.get("step")) for row in rows(by_name[f"{site}-drill"])]
        assert found == wanted, site


def test_twenty_rounds_of_bursts_from_eight_sites_arrive(eight: Stack, clients: bool) -> None:
    job = Drill(sites=SITES, rounds=20, values=1000, seconds=0.0, clients=clients, wait_seconds=120)
    job_id = job.run(eight, 400)
    eight.wait_for(lambda: spool(eight, "server", job_id)["pending"] == 0, "everything delivered", 200)
    check(eight, job, job_id)


def watched(stack: Stack, job: Drill) -> tuple[str, dict[str, float]]:
    """Runs a job to its last delivery. Returns its id and, by process where the writer is, MiB gained after the first minute."""
    service = "site-1" if job.clients else "server"
    started = time.monotonic()
    samples: list[tuple[float, dict[str, float]]] = []
    job_id = job.submit(stack)
    report: dict[str, Any] = {}
    while not report or report["pending"] or report["state"] != "done":
        assert time.monotonic() - started < 900, report
        samples.append((time.monotonic() - started, json.loads(stack.execute(service, "python", "-c", RSS).text.splitlines()[-1])))
        time.sleep(5)  # the sampling's period
        report = spool(stack, service, job_id) or report
    assert job.wait(stack, job_id, 120) == "FINISHED:COMPLETED"
    gained = {}
    for name in ("multisite.node", "tracking.writer", "wandb-core"):
        after = [sample[name] for when, sample in samples if name in sample and when > 90]  # the job starts after about 25 s
        gained[name] = max(after) - after[0]
        print(
            f"{name}: {after[0]:.0f} MiB after the first minute, at most {max(after):.0f} MiB later ({job.values} values a round)"
        )
    return job_id, gained


def test_a_million_values_arrive_and_memory_stays_flat_after_the_first_minute(eight: Stack, clients: bool) -> None:
    """NVFlare's own process gains a little with every job, metrics or not: the same job with hardly any is the measure."""
    _, control = watched(eight, Drill(sites=SITES, rounds=10, values=10, seconds=18.0, clients=clients, wait_seconds=600))
    job = Drill(sites=SITES, rounds=10, values=12_500, seconds=18.0, clients=clients, wait_seconds=600)
    job_id, gained = watched(eight, job)
    eight.wait_for(lambda: spool(eight, "server", job_id)["pending"] == 0, "everything delivered", 200)
    check(eight, job, job_id)
    sites = spool(eight, "server", job_id)["sites"]
    assert sum(site["delivered"] for name, site in sites.items() if name != "server") == 1_000_000
    for name in ("tracking.writer", "wandb-core"):
        assert gained[name] < FLAT_MIB
    assert gained["multisite.node"] - control["multisite.node"] < FLAT_MIB
