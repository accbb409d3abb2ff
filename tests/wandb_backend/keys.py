"""The API keys that the backend accepts, and who presented which one."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Caller:
    """Who sent a request: ``label`` names a known key, ``presented`` is safe to record in any case."""

    label: str | None
    presented: str
    ip: str


class KnownKeys:
    """Known keys by label. Keys go in and never come out: callers see labels and digests."""

    def __init__(self, labels_by_key: dict[str, str]) -> None:
        """Take over the labels, by key."""
        self._labels = dict(labels_by_key)

    @classmethod
    def parse(cls, entries: Iterable[str]) -> KnownKeys:
        """Read ``KEY=label`` entries; blank ones and ``#`` comments are skipped, a missing label becomes ``key``."""
        labels: dict[str, str] = {}
        for entry in (raw.strip() for raw in entries):
            if entry and not entry.startswith("#"):
                key, _, label = entry.partition("=")
                labels[key.strip()] = label.strip() or "key"
        return cls(labels)

    @classmethod
    def load(cls, keys_file: Path | None, inline: str = "") -> KnownKeys:
        """Join the keys of a file (one ``KEY=label`` a line) with those of a comma-separated string."""
        lines = keys_file.read_text(encoding="utf-8").splitlines() if keys_file else []
        return cls.parse([*lines, *inline.split(",")])

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._labels)

    def identify(self, authorization: str | None, ip: str) -> Caller:
        """Name the caller behind an ``Authorization`` header without keeping what it holds."""
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        if not credentials:
            return Caller(None, "none" if not scheme else digest_of(scheme), ip)
        key = _password(credentials) if scheme.lower() == "basic" else credentials.strip()
        label = self._labels.get(key)
        return Caller(label, label if label is not None else digest_of(key), ip)

    def redact(self, payload: bytes) -> tuple[bytes, list[str]]:
        """Replace every known key inside ``payload`` by its label; also return the labels of the keys found."""
        found = []
        for key, label in self._labels.items():
            if key.encode() in payload:
                payload = payload.replace(key.encode(), f"<key:{label}>".encode())
                found.append(label)
        return payload, found


def digest_of(key: str) -> str:
    """A short SHA-256 prefix that stands for an unknown key in the records."""
    return "unknown:" + hashlib.sha256(key.encode()).hexdigest()[:DIGEST_LENGTH]


def _password(credentials: str) -> str:
    try:
        decoded = base64.b64decode(credentials, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return credentials
    return decoded.partition(":")[2]
