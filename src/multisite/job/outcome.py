"""What a job's models reached, in the lines that end it. Standard library only: the host's console prints them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multisite.text import number

BEST = "models/best_model.safetensors"


def lines(final: Mapping[str, Any] | None, best: Mapping[str, Any] | None, data: str) -> list[str]:
    """A line each for the final and for the best global model; none for what there is not.

    Args:
        final, best: of `rounds.json`, see `progress.py`.
        data: what the sites trained on and measured with.
    """
    found = []
    if final and (accuracy := number(final.get("accuracy"))) is not None:
        found.append(f"final global model: accuracy {accuracy:.4f} on {data}")
    if best and (accuracy := number(best.get("accuracy"))) is not None:
        found.append(
            f"best global model: accuracy {accuracy:.4f} after round {number(best.get('round')) or 0:.0f} ({BEST}); "
            "chosen by its accuracy on the test set, so this number is optimistic"
        )
    return found
