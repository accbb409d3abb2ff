"""The benchmark's picture, from its JSON:  python -m tests.bench.federation.plot FILE.json >FILE.svg   (in the test image)"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

PARTS = ("command to first local step", "a round beyond its work", "last local step to results on disk", "whole job")


def main() -> None:
    """A panel a figure, a bar an arm: the median, with the smallest and the largest."""
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    matplotlib.rcParams["svg.hashsalt"] = "multisite"  # the same figures give the same file
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, len(PARTS))
    for panel, part in zip(axes, PARTS, strict=True):
        for place, (arm, runs) in enumerate(measured["figures"].items()):
            values = [run[part] for run in runs]
            middle = statistics.median(values)
            error = [[middle - min(values)], [max(values) - middle]]
            panel.bar(place, middle, yerr=error, capsize=3, color="#3b6ea5" if arm.startswith("D:") else "#b8c4d0")
            panel.annotate(f"{middle:.2f}", (place, max(values)), ha="center", va="bottom", fontsize=8)
        panel.set_xticks(range(len(measured["figures"])), [measured["names"][arm].split(":")[0] for arm in measured["figures"]])
        panel.set_title(part, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    figure.suptitle(f"{'   '.join(measured['names'].values())}\n{measured['machine']}", fontsize=8)
    figure.savefig(sys.stdout.buffer, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
