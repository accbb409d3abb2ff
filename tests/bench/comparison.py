"""What arrives, beside NVFlare's own receiver in the same cases:  python -m tests.bench.comparison

The same job in the same containers, arms interleaved; a cell is the share of the logged values that the backend has exactly once after the job's end, then after `make sync` where something was left, and the job's seconds. Needs the images
(`make up` once) and Docker.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.e2e.drill.job import Drill, arrived
from tests.e2e.drill.script import expected
from tests.e2e.stack import KEY, Stack, free_port
from tests.wandb_backend.client import reset, set_faults

BASE = Drill(rounds=6, values=400, seconds=4.0, wait_seconds=30)
SETTLE_SECONDS = 15.0


def share(stack: Stack, job: Drill, job_id: str) -> float:
    """Percent of the values that arrived exactly once, whatever step they have."""
    wanted = [(site, value) for site in job.site_names() for value, _ in expected(job.rounds, job.values, job.pattern)]
    found: Counter[tuple[str, int]] = Counter()
    for site in job.site_names():
        found.update((site, value) for value, _ in arrived(stack.backend(), job_id, site))
    return 100 * sum(found[pair] == 1 for pair in wanted) / len(wanted)


def none(stack: Stack, job_id: str) -> None:
    """No fault."""


def for_a_while(seconds: float, **fault: float) -> Callable[[Stack, str], None]:
    """A fault of the backend, in the middle of the job."""

    def act(stack: Stack, job_id: str) -> None:
        time.sleep(8)
        set_faults(stack.backend_url(), **fault)
        time.sleep(seconds)
        set_faults(stack.backend_url())

    return act


CASES: dict[str, tuple[Callable[[Stack, str], None], dict[str, float]]] = {
    "steps of every pattern": (none, {}),
    "403 for 12 s": (for_a_while(12, graphql=403, file_stream=403), {}),
    "503 for 12 s": (for_a_while(12, graphql=503, file_stream=503), {}),
    "2 s a request": (none, {"delay": 2.0}),
    "503 for the whole job": (none, {"graphql": 503, "file_stream": 503}),
}


def run(stack: Stack, case: str, stock: bool) -> str:
    """One arm of one case, as a cell of the table."""
    during, throughout = CASES[case]
    job = replace(BASE, receiver="stock" if stock else "multisite")
    set_faults(stack.backend_url(), **throughout)
    started = time.monotonic()
    job_id = job.submit(stack)
    during(stack, job_id)
    status = job.wait(stack, job_id, 300)
    seconds = time.monotonic() - started
    set_faults(stack.backend_url())
    deadline = time.monotonic() + SETTLE_SECONDS
    best = share(stack, job, job_id)
    while best < 100 and time.monotonic() < deadline and not throughout:
        time.sleep(1)
        best = share(stack, job, job_id)
    cell = f"{best:.1f}%"
    if best < 100 and not stock:
        stack.make("sync")
        cell += f", then {share(stack, job, job_id):.1f}% (make sync)"
    return f"{cell}, {seconds:.0f} s, {status.removeprefix('FINISHED:')}"


def main() -> None:
    """Every case, both arms."""
    home = Path(tempfile.mkdtemp()) / "multisite"
    home.mkdir()
    stack = Stack(home, "multisite-comparison", free_port(), home / "transcript.txt", {"ALLOW_CUSTOM_CODE": "yes"})
    stack.create()
    overlay = home / "stock-key.yaml"
    # The stock receiver takes its key from the environment, and can't do with empty settings there.
    environment = f"WANDB_API_KEY: {KEY}, WANDB_TAGS: drill, WANDB_ENTITY: stub, WANDB_PROJECT: drill"
    overlay.write_text(f"services: {{server: {{environment: {{{environment}}}}}}}\n", encoding="utf-8")
    env = home / ".env"
    text = env.read_text(encoding="utf-8").replace("COMPOSE_EXTRA=", f"COMPOSE_EXTRA={overlay}:")
    env.write_text(text, encoding="utf-8")
    try:
        done = stack.make("up", seconds=900)
        assert done.code == 0, done.text
        print("| case | ours | NVFlare's own receiver |\n|---|---|---|", flush=True)
        for case in CASES:
            cells = []
            for stock in (False, True):
                reset(stack.backend_url())
                cells.append(run(stack, case, stock))
            print(f"| {case} | {' | '.join(cells)} |", flush=True)
    finally:
        stack.destroy()


if __name__ == "__main__":
    main()
