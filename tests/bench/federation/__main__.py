"""`make bench`: the arms in turn, several times over; a table, a plot and the machine.

    .venv/bin/python -m tests.bench.federation [--quick] [--arms plain,deployment] [--sites 8 --network moderate] [--rounds N] [--out DIR]

With more than two sites only the arms `plain` and `deployment` run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

from tests.bench.federation.arms import Arms, Job
from tests.bench.federation.weights import largest_difference
from tests.e2e.more_sites import more_sites
from tests.e2e.stack import Stack, free_port

NAMES = {
    "plain": "A: plain PyTorch, no framework",
    "simulator": "B: NVFlare's simulator",
    "containers": "C: stock NVFlare in containers",
    "deployment": "D: this deployment (make submit)",
}
FULL, QUICK = 5, 2


def machine() -> str:
    """One line about where this ran."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        "",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model or platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}"


def table(figures: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: a row a figure, a column an arm; median (smallest-largest) in seconds."""
    lines = ["| seconds | " + " | ".join(NAMES[arm].split(":")[0] for arm in figures) + " |", "|---|" + "---|" * len(figures)]
    for name in next(iter(figures.values()))[0]:
        cells = []
        for runs in figures.values():
            values = [run[name] for run in runs]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--arms", default=",".join(NAMES))
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--network", default="upstream")
    parser.add_argument("--limit", default="6000", help="training examples of both sites")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    options = parser.parse_args()
    wanted = options.arms.split(",")
    repeats = options.repeats or (QUICK if options.quick else FULL)
    home = Path(tempfile.mkdtemp()) / "multisite"
    home.mkdir()
    stack = Stack(home, f"multisite-bench-{os.getpid()}", free_port(), home / "transcript.txt", {"DATA_LIMIT": options.limit})
    stack.create()
    figures: dict[str, list[dict[str, float]]] = {arm: [] for arm in wanted}
    weights: dict[str, Path] = {}
    job = Job(rounds=options.rounds, network=options.network)
    arms = Arms(stack, job, "1", options.sites)
    more = contextlib.ExitStack()
    try:
        up = stack.make("up", seconds=900)
        assert up.code == 0, up.text
        if options.sites > 2:
            more.enter_context(more_sites(stack, options.sites))
        if "containers" in wanted:
            arms.start_stock()
        for repeat in range(repeats):
            for arm in wanted:
                line = getattr(arms, arm)()
                figures[arm].append(line.figures())
                if line.weights:
                    weights[arm] = line.weights
                told = ", ".join(f"{name} {value:.2f}" for name, value in figures[arm][-1].items())
                print(f"{repeat + 1}/{repeats} {NAMES[arm]}: {told}", flush=True)
        if {"plain", "deployment"} <= set(weights):
            difference = largest_difference(weights["plain"], weights["deployment"])
            print(f"\nlargest difference between any weight of A's and of D's final global model: {difference}")
    finally:
        arms.stop_stock()
        more.close()
        stack.destroy()
    options.out.mkdir(parents=True, exist_ok=True)
    told = {"machine": f"{machine()}; {repeats} runs of each, interleaved", "names": NAMES, "figures": figures}
    (options.out / "federation.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    print(f"\n{told['machine']}; {job}, {options.sites} sites, {options.limit} examples\n\n{table(figures)}")


if __name__ == "__main__":
    main()
