"""The HTTP side of the stand-in: authentication, injected faults, and the routes of the W&B API and of the tests."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import unquote

from tests.wandb_backend.faults import Faults
from tests.wandb_backend.keys import Caller, KnownKeys
from tests.wandb_backend.operations import STORAGE_PREFIX, NoSuchField, answer
from tests.wandb_backend.state import DeletedRun, JsonObject, State

CONTROL_PREFIX = "/_stub/"
FILE_STREAM_PATH = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")
UPLOAD_PATH = re.compile(re.escape(STORAGE_PREFIX) + r"([^/]+)/([^/]+)/([^/]+)/(.+)")
IDLE_CONNECTION_S = 120
MAX_BODY_BYTES = 64 * 1024 * 1024
NOT_LOGGED_IN: JsonObject = {
    "error": "user is not logged in",
    "errors": [{"message": "user is not logged in"}],
}
BAD_BODY = (ValueError, KeyError, TypeError, AttributeError, IndexError)

Reply = tuple[int, JsonObject | bytes]


@dataclass(frozen=True)
class ApiRequest:
    """A request of the SDK, as it may be recorded: ``path`` and ``body`` hold labels where a known key stood."""

    kind: str
    method: str
    path: str
    body: bytes
    size: int
    caller: Caller
    base_url: str


class WandbBackend(ThreadingHTTPServer):
    """A W&B backend for tests: ``WandbBackend((host, port), keys)``, then ``serve_forever`` or ``start``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], keys: KnownKeys) -> None:
        """Bind to ``address`` (port 0: any free one) and accept the keys of ``keys``."""
        super().__init__(address, _Handler)
        self.keys = keys
        self.lock = threading.Lock()
        self.state = State()
        self.faults = Faults()
        self.closed = False

    def serve_with_refusals(self) -> None:
        """Serve for ever; where a fault says so, close the port for that time and open it again, with everything recorded."""
        backend = self
        while True:
            backend.serve_forever(poll_interval=0.1)
            backend.server_close()
            time.sleep(backend.faults.refuse)
            successor = WandbBackend(backend.server_address[:2], backend.keys)  # type: ignore[arg-type]
            successor.state = backend.state
            backend = successor

    @property
    def url(self) -> str:
        """The address under which a client on this machine reaches the backend."""
        host, port = self.server_address[:2]
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else str(host)}:{port}"

    def start(self) -> None:
        """Serve from a background thread; ``stop`` ends it."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self.shutdown()
        self.server_close()

    def control(self, method: str, command: str, body: bytes) -> Reply:
        """Answer a request of a test: ``state`` and ``health`` are read, ``reset`` and ``fault`` are orders."""
        with self.lock:
            match method, command:
                case "GET" | "HEAD", "health":
                    return HTTPStatus.OK, {"ok": True}
                case "GET" | "HEAD", "state":
                    return HTTPStatus.OK, self.state.to_json()
                case "POST", "reset":
                    self.state, self.faults = State(), Faults()
                    return HTTPStatus.OK, {"ok": True}
                case "POST", "delete":
                    self.state.delete(json.loads(body)["run"])
                    return HTTPStatus.OK, {"ok": True}
                case "POST", "rename":
                    order = json.loads(body)
                    next(run for run in self.state.runs.values() if run.name == order["run"]).display_name = order["name"]
                    return HTTPStatus.OK, {"ok": True}
                case "POST", "rows":
                    self.state.add_rows(json.loads(body))
                    return HTTPStatus.OK, {"ok": True}
                case "POST", "fault":
                    try:
                        self.faults = Faults.from_json(json.loads(body or b"{}"))
                        if self.faults.refuse:
                            self.closed = True
                            threading.Thread(target=self.shutdown, daemon=True).start()
                    except BAD_BODY as error:
                        return HTTPStatus.BAD_REQUEST, {"error": str(error)}
                    return HTTPStatus.OK, {"ok": True}
        return HTTPStatus.NOT_FOUND, {"error": f"no {method} of that name"}

    def serve_api(self, request: ApiRequest, leaked: list[str]) -> Reply:
        """Answer a request of the SDK: refuse unknown keys, show the injected fault, or take the request in."""
        with self.lock:
            if leaked:
                self.state.note_leak(request.caller, request.path, leaked)
            if request.kind != "storage" and request.caller.label is None:
                self.state.note_rejected(request.caller, request.path)
                reply: Reply = (HTTPStatus.UNAUTHORIZED, NOT_LOGGED_IN)
            elif status := self.faults.status_for(request.kind, request.path, request.size):
                reply = (status, {"error": "injected fault"})
            else:
                reply = self._take_in(request)
            self.state.note_request(request.caller, request.method, request.path, request.kind, int(reply[0]))
        return reply

    def _take_in(self, request: ApiRequest) -> Reply:
        try:
            if request.kind == "graphql":
                data = answer(self.state, json.loads(request.body), request.caller, request.base_url, self.faults)
                return HTTPStatus.OK, data
            if request.kind == "file_stream":
                return self._file_stream(request)
            return self._upload(request)
        except DeletedRun as deleted:
            return HTTPStatus.CONFLICT, {"error": str(deleted), "errors": [{"message": str(deleted)}]}
        except NoSuchField as error:
            return HTTPStatus.BAD_REQUEST, {"errors": [{"message": str(error)}]}
        except BAD_BODY as error:
            return HTTPStatus.BAD_REQUEST, {"error": f"malformed request: {type(error).__name__}"}

    def _file_stream(self, request: ApiRequest) -> Reply:
        """Take in a post, also for a run that no upsert named: a run that lives through a reset keeps streaming."""
        match = FILE_STREAM_PATH.fullmatch(request.path)
        if match is None:
            return HTTPStatus.NOT_FOUND, {"error": "no such path"}
        run = self.state.run(*(unquote(part) for part in match.groups()))
        run.saw(request.caller)
        run.stream(json.loads(request.body or b"{}"))
        return HTTPStatus.OK, {"exitcode": run.exit_code, "limits": {}, "stopped": False}

    def _upload(self, request: ApiRequest) -> Reply:
        """Note an upload's size. The SDK sends no key with one: the address comes from an authenticated call."""
        match = UPLOAD_PATH.fullmatch(request.path)
        if request.method == "PUT" and match is not None:
            entity, project, name, file = (unquote(part) for part in match.groups())
            run = self.state.find(entity, project, name)
            if run is not None:
                run.uploads[file] = request.size
                return HTTPStatus.OK, {}
        return HTTPStatus.NOT_FOUND, {"error": "no such path"}


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_CONNECTION_S
    wbufsize = -1

    @property
    def backend(self) -> WandbBackend:
        return cast(WandbBackend, self.server)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet: a request line may hold anything, and ``/_stub/state`` shows what came."""

    def _handle(self) -> None:
        path = self.path.split("?")[0]
        try:
            body = self._read_body()
        except (ValueError, EOFError, OSError, zlib.error):
            self.close_connection = True
            self._reply(HTTPStatus.BAD_REQUEST, {"error": "unreadable body"})
            return
        if path.startswith(CONTROL_PREFIX):
            self._reply(*self.backend.control(self.command, path.removeprefix(CONTROL_PREFIX), body))
            return
        if self.backend.closed:  # a connection from before
            self.close_connection = True
            return
        time.sleep(self.backend.faults.delay)
        status, reply = self.backend.serve_api(*self._api_request(path, body))
        if self.backend.faults.drop:
            self.close_connection = True
            return
        self._reply(status, reply, reset=self.backend.faults.reset if status == HTTPStatus.TOO_MANY_REQUESTS else 0)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _api_request(self, path: str, body: bytes) -> tuple[ApiRequest, list[str]]:
        """The request without any known key, and the labels of the keys that stood in its path or body."""
        keys = self.backend.keys
        shown_path, in_path = keys.redact(path.encode())
        shown_body, in_body = keys.redact(body)
        request = ApiRequest(
            kind=_kind_of(path),
            method=self.command,
            path=shown_path.decode(),
            body=shown_body,
            size=len(body),
            caller=keys.identify(self.headers.get("Authorization"), str(self.client_address[0])),
            base_url=f"http://{self.headers.get('Host', '')}",
        )
        return request, sorted({*in_path, *in_body})

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._read_chunks()
        else:
            body = self.rfile.read(_checked_size(int(self.headers.get("Content-Length") or 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            _checked_size(len(body) + size)
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _reply(self, status: int, reply: JsonObject | bytes, reset: int = 0) -> None:
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if reset:
            self.send_header("RateLimit-Reset", str(reset))
            self.send_header("Retry-After", str(reset))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()


def _kind_of(path: str) -> str:
    if path == "/graphql":
        return "graphql"
    return "file_stream" if FILE_STREAM_PATH.fullmatch(path) else "storage"


def _checked_size(size: int) -> int:
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError("body size out of range")
    return size
