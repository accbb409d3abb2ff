"""The stand-in for the W&B backend in this process, and requests to it as the SDK sends them."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.wandb_backend.keys import KnownKeys
from tests.wandb_backend.server import WandbBackend

KEY = "k" * 40
STRANGER = "s" * 40
STREAM = "/files/team/fl/r1/file_stream"
UPSERT = "mutation UpsertBucket($name: String) { upsertBucket }"


@pytest.fixture
def url() -> Iterator[str]:
    backend = WandbBackend(("127.0.0.1", 0), KnownKeys({KEY: "server"}))
    backend.start()
    yield backend.url
    backend.stop()


def send(url: str, body: bytes | None = None, key: str | None = KEY, method: str | None = None, **headers: str) -> Any:
    """Send one request as the SDK does; returns the decoded answer."""
    if key is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Request(url, data=body, headers=named, method=method), timeout=10) as response:
        return json.loads(response.read())


def refuses(host: str, port: int) -> bool:
    """Whether nothing listens; a connection that was waiting while the port closed is reset, which is not yet that."""
    try:
        socket.create_connection((host, port), 1).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def status_of(url: str, body: bytes | None = None, key: str | None = KEY, method: str | None = None) -> int:
    try:
        send(url, body, key, method)
    except HTTPError as error:
        return error.code
    return 200


def graphql(url: str, query: str, key: str | None = KEY, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    return send(f"{url}/graphql", body, key)["data"]


def upsert(url: str, name: str = "r1", **variables: Any) -> Any:
    return graphql(url, UPSERT, name=name, entity="team", project="fl", **variables)


def history(offset: int, *rows: dict[str, Any], **more: Any) -> bytes:
    content = [json.dumps(row) for row in rows]
    return json.dumps({"files": {"wandb-history.jsonl": {"offset": offset, "content": content}}, **more}).encode()
