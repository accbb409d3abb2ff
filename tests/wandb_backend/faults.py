"""The failures that the backend can be told to show."""

from __future__ import annotations

from dataclasses import dataclass

from tests.wandb_backend.state import JsonObject

MAX_DELAY_S = 300.0


@dataclass(frozen=True)
class Faults:
    """``graphql``, ``file_stream``, ``storage``: the HTTP status that such requests get instead of an answer.

    ``delay`` seconds pass before any answer. With ``drop`` a request is taken in but its answer is lost, so a
    client has to send it again. All of it holds until the next order; an empty order clears it. ``refuse`` seconds long
    nothing listens at the port. ``reset`` is sent with a status as RateLimit-Reset and Retry-After, in seconds.

    What W&B's maintainers say of the cloud: ``lag`` seconds pass until a row that has arrived is counted, in listings and for
    a resume; with ``rows_at_end`` the rows of a resumed run are counted when it finishes. With ``no_query`` the server takes
    runs and has no fields to ask for them; with ``uncounted`` it has the fields, and they count no row.
    ``run``: the status of ``file_stream`` is for this run alone. ``largest``: rows that come in a request of more bytes are
    refused with 413, as a proxy does.
    """

    graphql: int = 0
    file_stream: int = 0
    storage: int = 0
    delay: float = 0.0
    drop: bool = False
    refuse: float = 0.0
    reset: int = 0
    lag: float = 0.0
    rows_at_end: bool = False
    no_query: bool = False
    uncounted: bool = False
    run: str = ""
    largest: int = 0

    @classmethod
    def from_json(cls, order: JsonObject) -> Faults:
        """Read an order; raises ``ValueError`` for a name or a value that makes no sense."""
        unknown = sorted(set(order) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"unknown fault: {', '.join(unknown)}")
        statuses = {kind: int(order.get(kind) or 0) for kind in ("graphql", "file_stream", "storage")}
        if any(status and not 400 <= status <= 599 for status in statuses.values()):
            raise ValueError("a fault status lies between 400 and 599")
        times = {name: float(order.get(name) or 0) for name in ("delay", "refuse", "lag")}
        for name, seconds in times.items():
            if not 0 <= seconds <= MAX_DELAY_S:
                raise ValueError(f"{name} lies between 0 and {MAX_DELAY_S:.0f} seconds")
        switches = {name: bool(order.get(name)) for name in ("drop", "rows_at_end", "no_query", "uncounted")}
        numbers = {name: int(order.get(name) or 0) for name in ("reset", "largest")}
        return cls(**statuses, **times, **switches, **numbers, run=str(order.get("run") or ""))

    def status_for(self, kind: str, path: str, size: int) -> int:
        """The injected status for a kind of request of ``size`` bytes, or 0."""
        if kind == "file_stream" and self.largest and size > self.largest:
            return 413
        if kind == "file_stream" and self.run and f"/{self.run}/" not in path:
            return 0
        return {"graphql": self.graphql, "file_stream": self.file_stream, "storage": self.storage}[kind]
