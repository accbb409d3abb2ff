"""`report.html`: a job's results as one page that needs no network. matplotlib draws it, as SVG within the page.

Names, errors and settings come from sites and from whoever submitted: they are text here, never markup, and bounded.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multisite.job import progress
from multisite.text import clean, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "report.html"
MOST_POINTS = 500  # of a curve; a longer one is thinned
MOST_NAMED = 12  # sites in a legend
COLOURS = "tab10"
STYLE: Any = {  # names and values of matplotlib's settings
    "svg.hashsalt": "multisite",  # the same results are the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "figure.facecolor": "white",
}
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem; margin-bottom: 0 }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ddd }}
.id {{ color: #666; margin-top: 0 }} svg {{ width: 100%; height: auto }}
.figures {{ display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 }}
.figures div {{ background: #f5f7fa; border-radius: 6px; padding: .6rem 1rem }} .figures b {{ display: block; font-size: 1.3rem }}
table {{ border-collapse: collapse; font-size: 14px }} td, th {{ text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top }}
th {{ color: #666; font-weight: 500 }} .problem {{ background: #fdecea; border-radius: 6px; padding: .6rem 1rem }}
</style></head><body>
"""


def write(folder: Path, job_id: str) -> None:
    """Writes the page of a job's folder, as `admin.results.arrange` makes it.

    Raises:
        Exception: it can't be drawn; the results are whole without it.
    """
    report, tracking = _read(folder / progress.RESULTS), _read(folder / "tracking.json")
    configuration = dict(_configuration(folder / "job"))
    (folder / NAME).write_text(page(job_id, report, configuration, tracking), encoding="utf-8")


def page(job_id: str, report: dict[str, Any], configuration: dict[str, str], tracking: dict[str, Any]) -> str:
    """The page as text.

    Args:
        job_id: NVFlare's.
        report: `rounds.json`, see `progress.RoundReporter.snapshot`.
        configuration: what the job was set to.
        tracking: `tracking.json`, the account of its metrics.
    """
    import matplotlib

    rows = [
        {**row, "site": clean(row.get("site", ""), progress.LONGEST_NAME)}
        for row in report.get("rows", [])
        if isinstance(row, dict) and isinstance(row.get("round"), int)
    ]
    sites = sorted({row["site"] for row in rows})
    parts = [HEAD.format(title=escape(f"Job {clean(job_id, 60)}")), "<h1>Federated job</h1>", f'<p class="id">{_text(job_id)}</p>']
    parts += [_figures(report, rows, sites), _problems(report)]
    with matplotlib.rc_context(STYLE):
        for title, figure in _drawings(rows, sites) if rows else ():
            parts.append(f"<h2>{title}</h2>\n{_svg(figure)}")
    if not rows:
        parts.append("<p>No site has reported a round.</p>")
    parts.append(_table("Configuration", ("setting", "value"), sorted(configuration.items())))
    account = _object(tracking.get("sites"))
    counts = ("logged", "delivered", "pending", "refused")
    lines = [(site, *(held.get(name, "") for name in counts)) for site, held in account.items() if isinstance(held, dict)]
    parts.append(_table("Metrics", ("site", *counts), sorted(lines, key=str)))
    return "\n".join([*parts, "</body></html>\n"])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return _object(found)


def _object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _configuration(folder: Path) -> Iterator[tuple[str, str]]:
    """The arguments of the job's own components, and the job's name."""
    for path in sorted(folder.rglob("config_fed_*.json")):
        for kind in ("executors", "workflows"):
            for component in _read(path).get(kind, []):
                held = component.get("executor", component) if isinstance(component, dict) else {}
                for name, value in (held.get("args") or {}).items() if isinstance(held, dict) else ():
                    if isinstance(value, (str, int, float, bool)):
                        yield clean(name, 60), clean(value, 120)
    if (name := _read(folder / "meta.json").get("name")) is not None:
        yield "name", clean(name, 120)


def _figures(report: dict[str, Any], rows: Sequence[dict[str, Any]], sites: Sequence[str]) -> str:
    final, best = _object(report.get("final")), _object(report.get("best"))
    shown = [
        ("sites", str(len(sites))),
        ("rounds", f"{max((row['round'] for row in rows), default=0)} of {_text(report.get('rounds', '?'))}"),
    ]
    for label, found in (("final accuracy", final), ("best accuracy (chosen on the test set)", best)):
        if (accuracy := number(found.get("accuracy"))) is not None:
            shown.append((label, f"{accuracy:.4f}"))
    held = {str(row.get("dataset")) for row in rows if row.get("dataset")}
    shown.append(("dataset", "SYNTHETIC DATA" if "synthetic" in held else ", ".join(sorted(held)) or "unknown"))
    return '<div class="figures">' + "".join(f"<div>{_text(name)}<b>{_text(value)}</b></div>" for name, value in shown) + "</div>"


def _problems(report: dict[str, Any]) -> str:
    lines = [f"{_text(site)}: {_text(reason)}" for site, reason in sorted(_object(report.get("errors")).items())]
    if not report.get("complete", False):
        lines.insert(0, "The job did not come to its end.")
    return f'<p class="problem">{"<br>".join(lines)}</p>' if lines else ""


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    if not lines:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in line) + "</tr>\n" for line in lines)
    return f"<h2>{title}</h2>\n<table><tr>{''.join(f'<th>{_text(name)}</th>' for name in head)}</tr>\n{body}</table>"


def _text(value: object) -> str:
    return escape(clean(value, 200))


def _drawings(rows: Sequence[dict[str, Any]], sites: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    trained = [row for row in rows if number(row.get("train_seconds")) is not None]
    yield "Global model on the test set", _lines(rows, sites, (("accuracy", "accuracy"), ("loss", "loss")))
    if trained:
        yield (
            "Local training, and its time",
            _lines(trained, sites, (("train_loss", "loss"), ("train_seconds", "seconds")), first=1),
        )
        yield "Participation and partition", _who(trained, sites)


def _lines(rows: Sequence[dict[str, Any]], sites: Sequence[str], wanted: Sequence[tuple[str, str]], first: int = 0) -> Figure:
    """A curve for each site over the rounds, of each metric in `wanted` (a column of `rounds.csv`, and its axis).

    Args:
        first: the number of the first round: a model is measured after 0 rounds, and trained in round 1.
    """
    figure, axes = _figure(len(wanted), 3.4)
    for axis, (name, label) in zip(axes, wanted, strict=True):
        for number_, site in enumerate(sites):
            points = [(row["round"] + first, number(row.get(name))) for row in rows if row["site"] == site]
            points = [(round_, value) for round_, value in points if value is not None and abs(value) < 1e9]
            points = points[:: max(1, len(points) // MOST_POINTS)]
            axis.plot(
                *zip(*points, strict=True) if points else ((), ()),
                color=_colour(number_),
                label=_label(number_, site),
                marker="." if len(points) < 40 else "",
            )
        axis.set(xlabel="round", ylabel=label)
        axis.set_ylim(bottom=0)
    _legend(axes[0], len(sites))
    return figure


def _who(rows: Sequence[dict[str, Any]], sites: Sequence[str]) -> Figure:
    """Which site trained in which round, and on how many examples."""
    figure, (part, held) = _figure(2, max(1.6, 0.9 + 0.28 * len(sites)))
    places = {site: place for place, site in enumerate(sites)}
    for row in rows[-MOST_POINTS * MOST_NAMED :]:
        place = places[row["site"]]
        part.add_patch(_box(row["round"], place, _colour(place)))
    rounds = [row["round"] for row in rows]
    part.set(
        xlim=(min(rounds) + 0.4, max(rounds) + 1.6),
        ylim=(len(sites) - 0.4, -0.6),
        xlabel="round",
        yticks=range(len(sites)),
        yticklabels=sites,
    )
    part.set_title("trained in", loc="left", fontsize=10)
    examples = [
        max(
            (number(row.get("examples")) or 0 for row in rows if places[row["site"]] == place),
            default=0,
        )
        for place in range(len(sites))
    ]
    held.barh(
        range(len(sites)),
        [min(count, 1e9) for count in examples],
        color=[_colour(place) for place in range(len(sites))],
        height=0.6,
    )
    held.set(ylim=(len(sites) - 0.4, -0.6), xlabel="examples", yticks=range(len(sites)), yticklabels=sites)
    held.set_title("examples in its shard", loc="left", fontsize=10)
    return figure


def _box(round_: int, place: int, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((round_ + 0.55, place - 0.3), 0.9, 0.6, color=colour, linewidth=0)


def _figure(columns: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), layout="constrained")  # no pyplot: it keeps figures and looks for a display
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _legend(axis: Axes, sites: int) -> None:
    if sites > 1:
        axis.legend(frameon=False, ncols=2 if sites > 4 else 1, fontsize=9)


def _label(place: int, site: str) -> str:
    return site if place < MOST_NAMED else "_"  # matplotlib leaves such a one out of the legend


def _colour(place: int) -> Any:
    from matplotlib import colormaps

    return colormaps[COLOURS](place % 10)


def _svg(figure: Figure) -> str:
    """The drawing as an element of a page: without the prologue of a file."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
