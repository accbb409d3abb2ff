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


class State:
    """All records of one backend."""

    def __init__(self) -> None:
        """Start with nothing recorded."""
        self.started = time.time()
        self.runs: dict[str, RunRecord] = {}
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

    def run(self, entity: str, project: str, name: str) -> RunRecord:
        """The run of that path, made if it is new."""
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
        document["runs"] = {path: asdict(run) for path, run in self.runs.items()}
        return json.dumps(document).encode()
