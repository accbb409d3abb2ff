"""Everything the backend recorded, kept in memory. Callers hold the backend's lock around every call."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.wandb_backend.keys import Caller

JsonObject = dict[str, Any]

DEFAULT_ENTITY = "stub"
DEFAULT_PROJECT = "uncategorized"
MAX_REQUESTS_KEPT = 20_000
HISTORY_FILE = "wandb-history.jsonl"
SUMMARY_FILE = "wandb-summary.json"
STREAM_FILES = {HISTORY_FILE: "history", "wandb-events.jsonl": "events", "output.log": "output"}


@dataclass
class KeyStatistics:
    """What a run's ``historyKeys`` says of its first ``lines`` lines."""

    lines: int = 0
    last_step: int = -1
    counts: dict[str, int] = field(default_factory=dict)
    previous: JsonObject = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Count the next line."""
        self.lines += 1
        for key, value in json.loads(line).items():
            self.counts[key] = self.counts.get(key, 0) + 1
            self.previous[key] = value
        self.last_step = self.previous.get("_step", self.last_step)


@dataclass
class RunRecord:
    """What arrived for one run. ``history``, ``events`` and ``output`` hold raw lines by line number."""

    entity: str
    project: str
    name: str
    display_name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: JsonObject = field(default_factory=dict)
    auth: dict[str, int] = field(default_factory=dict)
    ips: dict[str, int] = field(default_factory=dict)
    history: dict[int, str] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    output: dict[int, str] = field(default_factory=dict)
    summary: JsonObject | None = None
    uploads: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    exit_code: int | None = None
    upserts: int = 0
    posts: int = 0
    history_posts: list[JsonObject] = field(default_factory=list)
    duplicate_lines: int = 0
    conflicts: list[JsonObject] = field(default_factory=list)
    before_resume: int | None = None
    keys: KeyStatistics = field(default_factory=KeyStatistics)

    def saw(self, caller: Caller) -> None:
        """Count one request of this run against the caller's key label and address."""
        self.auth[caller.presented] = self.auth.get(caller.presented, 0) + 1
        self.ips[caller.ip] = self.ips.get(caller.ip, 0) + 1

    def upsert(self, variables: JsonObject) -> None:
        """Take over what an ``UpsertBucket`` names; what it leaves out stays."""
        self.upserts += 1
        self.display_name = variables.get("displayName") or self.display_name
        self.group = variables.get("groupName") or self.group
        self.job_type = variables.get("jobType") or self.job_type
        self.tags = variables.get("tags") or self.tags
        if variables.get("config"):
            self.config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            self.summary = json.loads(variables["summaryMetrics"])

    def resume(self) -> None:
        """Note what had arrived when the run was opened again."""
        self.before_resume = len(self.history)
        self.complete = False

    def counted(self, lag: float, at_end: bool) -> int:
        """How many lines the backend counts now: those that arrived ``lag`` seconds ago; ``at_end`` those of a resume when it ends."""
        if not lag and not (at_end and self.before_resume is not None and not self.complete):
            return len(self.history)
        old = time.time() - lag
        lines = max((post["offset"] + post["count"] for post in self.history_posts if post["time"] <= old), default=0)
        if at_end and self.before_resume is not None and not self.complete:
            lines = min(lines, self.before_resume)
        return min(lines, len(self.history))

    def history_keys(self, lines: int) -> JsonObject | None:
        """``historyKeys`` of the first ``lines`` lines."""
        if self.keys.lines > lines:
            self.keys = KeyStatistics()
        for number in range(self.keys.lines, lines):
            self.keys.read(self.history[number])
        if not lines:
            return None
        keys = {
            key: {
                "typeCounts": [{"type": "number", "count": count}],
                "monotonic": False,
                "previousValue": self.keys.previous[key],
            }
            for key, count in self.keys.counts.items()
        }
        return {"lastStep": self.keys.last_step, "sets": [], "keys": keys}

    def stream(self, post: JsonObject) -> None:
        """Take in one file-stream post."""
        self.posts += 1
        files: JsonObject = post.get("files") or {}
        for file_name, stream_name in STREAM_FILES.items():
            if file_name in files:
                self._take_lines(stream_name, files[file_name]["offset"], files[file_name]["content"])
        if HISTORY_FILE in files:
            chunk = files[HISTORY_FILE]
            self.history_posts.append({"time": time.time(), "offset": chunk["offset"], "count": len(chunk["content"])})
        if SUMMARY_FILE in files:
            self.summary = json.loads(files[SUMMARY_FILE]["content"][-1])
        if post.get("complete"):
            self.complete, self.exit_code = True, post.get("exitcode")

    def _take_lines(self, stream_name: str, offset: int, lines: list[str]) -> None:
        """Store lines by number. Only console output may legitimately rewrite one; elsewhere a repeat is counted."""
        known: dict[int, str] = getattr(self, stream_name)
        for number, line in enumerate(lines, offset):
            if number in known and stream_name != "output":
                self.duplicate_lines += 1
                if known[number] != line:
                    self.conflicts.append({"stream": stream_name, "line": number, "was": known[number], "now": line})
            known[number] = line


class DeletedRun(Exception):
    """The id of a run that was deleted."""


class State:
    """All records of one backend."""

    def __init__(self) -> None:
        """Start with nothing recorded."""
        self.started = time.time()
        self.runs: dict[str, RunRecord] = {}
        self.deleted: list[str] = []
        self.artifacts: dict[str, JsonObject] = {}
        self.ops: dict[str, int] = {}
        self.unknown_ops: dict[str, str] = {}
        self.rejected: list[JsonObject] = []
        self.leaks: list[JsonObject] = []
        self.request_count = 0
        self.requests: deque[JsonObject] = deque(maxlen=MAX_REQUESTS_KEPT)

    def find(self, entity: str, project: str, name: str) -> RunRecord | None:
        """The run of that path, if anything arrived for it."""
        return self.runs.get(f"{entity}/{project}/{name}")

    def add_rows(self, order: JsonObject) -> None:
        """Rows of somebody else, behind those that are there."""
        run = self.run(DEFAULT_ENTITY, order["project"], order["run"])
        run.display_name = order["display_name"] or run.display_name
        offset = len(run.history)
        lines = [json.dumps({**row, "_step": number}) for number, row in enumerate(order["rows"], offset)]
        run.stream({"files": {HISTORY_FILE: {"offset": offset, "content": lines}}})

    def delete(self, name: str) -> None:
        """Delete the runs of that id, as in the page: it can't be used again."""
        self.runs = {path: run for path, run in self.runs.items() if run.name != name}
        self.deleted.append(name)

    def run(self, entity: str, project: str, name: str) -> RunRecord:
        """The run of that path, made if it is new; ``DeletedRun`` if there was one."""
        if name in self.deleted:
            raise DeletedRun(f"run {name} was previously created and deleted; try a new run name")
        return self.runs.setdefault(f"{entity}/{project}/{name}", RunRecord(entity, project, name))

    def count_op(self, op: str) -> None:
        """Count one GraphQL operation."""
        self.ops[op] = self.ops.get(op, 0) + 1

    def note_request(self, caller: Caller, method: str, path: str, kind: str, status: int) -> None:
        """Log one request; the oldest give way once ``MAX_REQUESTS_KEPT`` are held."""
        self.request_count += 1
        self.requests.append(
            {
                "time": time.time(),
                "ip": caller.ip,
                "auth": caller.presented,
                "method": method,
                "path": path,
                "kind": kind,
                "status": status,
            }
        )

    def note_rejected(self, caller: Caller, path: str) -> None:
        """Record a request that no known key came with."""
        self.rejected.append({"time": time.time(), "ip": caller.ip, "presented": caller.presented, "path": path})

    def note_leak(self, caller: Caller, path: str, labels: list[str]) -> None:
        """Record that known keys stood in a path or body, where none belongs."""
        self.leaks.append({"ip": caller.ip, "path": path, "labels": labels})

    def to_json(self) -> bytes:
        """Everything, as one JSON document."""
        document = {**vars(self), "requests": list(self.requests)}
        document["runs"] = {path: {**asdict(run), "keys": None} for path, run in self.runs.items()}
        return json.dumps(document).encode()
