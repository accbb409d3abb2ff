"""What the console prints: tables, and progress lines that read well on a terminal and in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from multisite.text import shorten

LONGEST_CELL = 200
LARGEST = 1e15
UNKNOWN_DATA = "unknown data"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned with two spaces between them; a cell that is absurdly long is shortened."""
    cells = [[shorten(str(cell), LONGEST_CELL) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def clock(seconds: float) -> str:
    """Minutes and seconds, for example 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def progress_line(row: dict[str, Any], rounds: int, elapsed: float) -> str:
    """One site's report.

    Args:
        row: see `job.progress`.
        rounds: of the job.
        elapsed: seconds since the first round began.
    """
    accuracy = f"global accuracy {number(row, 'accuracy'):.4f}"
    if row["round"] >= rounds:
        return f"[{clock(elapsed)}] final      {row['site']}: {accuracy}"
    done = row["round"] + 1
    left = elapsed / done * (rounds - done)
    return (
        f"[{clock(elapsed)}] round {done}/{rounds}  {row['site']}: loss {number(row, 'train_loss'):.3f}, "
        f"{accuracy} before it, about {clock(left)} left"
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The table at a job's end: the global model after each round, as each site measured it, and the local training loss."""
    by_round: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_round.setdefault(row["round"], []).append(row)
    lines = []
    for done, reports in sorted(by_round.items()):
        trained = [report for report in reports if "train_loss" in report]
        lines.append(
            (
                done,
                f"{mean(reports, 'accuracy'):.4f}",
                f"{mean(reports, 'loss'):.4f}",
                f"{mean(trained, 'train_loss'):.4f}" if trained else "-",
                f"{max(number(report, 'train_seconds') for report in trained):.1f} s" if trained else "-",
                len(reports),
            )
        )
    header = ("rounds done", "global accuracy", "global loss", "then local loss", "local training", "sites")
    return table(header, lines)


def number(row: dict[str, Any], name: str) -> float:
    """A value of a site's report; NaN if it sent none, or no number."""
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST else math.nan


def mean(reports: Sequence[dict[str, Any]], name: str) -> float:
    """Mean of one column; NaN without values."""
    values = [number(report, name) for report in reports if name in report]
    return sum(values) / len(values) if values else float("nan")


def datasets(rows: Sequence[dict[str, Any]]) -> str:
    """What the result was reached on, by what the sites reported; synthetic data in capitals."""
    names = sorted({str(row.get("dataset") or UNKNOWN_DATA) for row in rows})
    if "synthetic" in names:
        return "SYNTHETIC DATA, NOT CIFAR-10"
    return ", ".join(names) or UNKNOWN_DATA


def account_lines(tracking: dict[str, Any]) -> list[str]:
    """A job's metrics account, and where something is pending, why, and the command that delivers it.

    Args:
        tracking: `multisite.tracking.spool.Job.report`; empty if the job left none.
    """
    if not tracking:
        return ["metrics: the job left no account; next: make status"]
    names = ("logged", "received", "delivered", "pending")
    sites = tracking["sites"]
    rows = [(site, *(account[name] for name in names)) for site, account in sorted(sites.items())]
    lines = table(("metrics of", *names), rows).splitlines()
    if refused := {site: account["refused"] for site, account in sites.items() if account["refused"]}:
        counts = ", ".join(f"{count} on {site}" for site, count in sorted(refused.items()))
        lines.append(f"REFUSED METRICS: {counts}: a full disk, or values that are none. Next: docker compose logs {min(refused)}")
    pending = sum(account["pending"] for account in sites.values())
    if pending:
        why = f"{tracking['state']}: {tracking['reason']}" if tracking["reason"] else "not confirmed yet"
        lines.append(f"W&B: {pending} records are not delivered ({why}); they are kept. Next: make sync")
        return lines
    delivered = sum(account["delivered"] for account in sites.values())
    if unconfirmed := sum(account.get("unconfirmed", 0) for account in sites.values()):
        lines.append(
            f"W&B: all {delivered} records sent, {unconfirmed} of them not confirmed: the backend can't be asked for its rows"
        )
    else:
        lines.append(f"W&B: all {delivered} records delivered, by the backend's count")
    return lines
