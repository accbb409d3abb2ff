"""`make bench`: the arms in turn, several times over; a table, a plot and the machine.

    PYTHONPATH=src .venv/bin/python -m tests.bench.federation [--quick] [--arms plain,deployment] [--sites 8 --network moderate] [--rounds N] [--out DIR]
        [--patches each] [--other NAME=DIR:TAG ...]

With more than two sites only the arms `plain` and `deployment` run. `--patches each` leaves out one of NVFlare's patches at a time, and all
of them; `--other` adds the deployment of another checkout of this project, whose images were built with that tag.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from multisite import nvflare_patches
from tests.bench.federation.arms import Arms, Job, Timeline
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
Runs = dict[str, list[dict[str, float]]]


def machine() -> str:
    """One line about where this ran."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        "",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model or platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}"


def table(figures: Runs) -> str:
    """Markdown: a row a figure, a column an arm; median (smallest-largest) in seconds."""
    lines = ["| seconds | " + " | ".join(arm.split(":")[0] for arm in figures) + " |", "|---|" + "---|" * len(figures)]
    for name in next(iter(figures.values()))[0]:
        cells = []
        for runs in figures.values():
            values = [run[name] for run in runs]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--arms", default=",".join(NAMES))
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--network", default="upstream")
    parser.add_argument("--limit", default="6000", help="training examples of both sites")
    parser.add_argument(
        "--patches", choices=["each"], help="one more arm for each of NVFlare's patches, without it, and one without any"
    )
    parser.add_argument("--other", action="append", default=[], help="NAME=DIR:TAG, another checkout as one more arm")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    return parser.parse_args()


@contextlib.contextmanager
def deployment(home: Path, name: str, settings: dict[str, str], **more: Path) -> Iterator[Stack]:
    """A deployment that is up."""
    (home / name).mkdir()
    stack = Stack(home / name, f"multisite-{name}-{os.getpid()}", free_port(), home / f"{name}.txt", settings, **more)
    stack.create()
    try:
        up = stack.make("up", seconds=900)
        assert up.code == 0, up.text
        yield stack
    finally:
        stack.destroy()


def chosen_arms(options: argparse.Namespace, arms: Arms, others: dict[str, Stack]) -> dict[str, Callable[[], Timeline]]:
    """Name of the table's column -> what runs."""
    found = {NAMES[arm]: getattr(arms, arm) for arm in options.arms.split(",")}
    if options.patches:
        for patch in (*nvflare_patches.NAMES, "none"):
            found["D, PATCHES=none: no patch" if patch == "none" else f"D without {patch}: one patch less"] = partial(
                arms.without, patch
            )
    for name, stack in others.items():
        found[f"{name}: another checkout (make submit)"] = partial(arms.submit, stack)
    return found


def measure(arms: dict[str, Callable[[], Timeline]], repeats: int) -> tuple[Runs, dict[str, Path]]:
    """Every arm in turn, `repeats` times; the figures, and the final weights of those that have some."""
    figures: Runs = {arm: [] for arm in arms}
    weights: dict[str, Path] = {}
    for repeat in range(repeats):
        for arm, run in arms.items():
            line = run()
            figures[arm].append(line.figures())
            if line.weights:
                weights[arm] = line.weights
            shown = ", ".join(f"{name} {value:.2f}" for name, value in figures[arm][-1].items())
            print(f"{repeat + 1}/{repeats} {arm}: {shown}", flush=True)
    return figures, weights


def main() -> None:
    """Runs it."""
    options = parse()
    repeats = options.repeats or (QUICK if options.quick else FULL)
    job = Job(rounds=options.rounds, network=options.network)
    with contextlib.ExitStack() as running:
        home = Path(running.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        stack = running.enter_context(deployment(home, "bench", {"DATA_LIMIT": options.limit}))
        others = {}
        for name, folder, tag in (re.fullmatch(r"(\w+)=(.+):([\w.-]+)", text).groups() for text in options.other):  # type: ignore[union-attr]
            settings = {"DATA_LIMIT": options.limit, "IMAGE_TAG": tag}
            others[name] = running.enter_context(deployment(home, name, settings, project=Path(folder).resolve()))
        if options.sites > 2:
            running.enter_context(more_sites(stack, options.sites))
        arms = Arms(stack, job, "1", options.sites)
        if "containers" in options.arms.split(","):
            running.callback(arms.stop_stock)
            arms.start_stock()
        figures, weights = measure(chosen_arms(options, arms, others), repeats)
        plain, ours = weights.get(NAMES["plain"]), weights.get(NAMES["deployment"])
        if plain and ours:
            print(
                f"\nlargest difference between any weight of A's and of D's final global model: {largest_difference(plain, ours)}"
            )
    options.out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": f"{machine()}; {repeats} runs of each, interleaved",
        "names": {arm: arm for arm in figures},
        "figures": figures,
    }
    (options.out / "federation.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"\n{content['machine']}; {job}, {options.sites} sites, {options.limit} examples\n\n{table(figures)}")


if __name__ == "__main__":
    main()
