"""Whom a site's processes may speak to, and as whom."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey, MessagePropKey, MessageType
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_ACK_TOPIC, STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.private.defs import CellMessageHeaderKeys

from multisite.node.message_filter import MessageFilter, refusal

JOB, OTHER = "job-1", "job-2"
ADMIN = f"_admin_{uuid.uuid4()}"


def message(
    origin: str, destination: str, channel: str, topic: str = "x", kind: str = MessageType.REQ, name: str | None = None
) -> Message:
    headers: dict[str, Any] = {
        MessageHeaderKey.ORIGIN: origin,
        MessageHeaderKey.DESTINATION: destination,
        MessageHeaderKey.CHANNEL: channel,
        MessageHeaderKey.TOPIC: topic,
        MessageHeaderKey.MSG_TYPE: kind,
    }
    if name is not None:
        headers[CellMessageHeaderKeys.CLIENT_NAME] = name
    return Message(headers, None)


def streamed(origin: str, destination: str, channel: str, topic: str = "x") -> Message:
    """As a piece of a longer message."""
    piece = message(origin, destination, STREAM_CHANNEL, STREAM_DATA_TOPIC)
    piece.add_headers({StreamHeaderKey.CHANNEL: channel, StreamHeaderKey.TOPIC: topic})
    return piece


@pytest.mark.parametrize(
    "honest",
    [
        message("site-2", "server", CellChannel.SERVER_MAIN, "register"),
        message("site-2", "server", CellChannel.SERVER_MAIN, "heart_beat", name="site-2"),
        message("site-2", "server", "multisite_tracking", "records", name="site-2"),
        message("site-2", "server", CellChannel.CELLNET, "bye"),
        streamed(f"site-2.{JOB}", f"server.{JOB}", CellChannel.SERVER_COMMAND, "get_task"),
        streamed(f"site-2.{JOB}", f"server.{JOB}", CellChannel.SERVER_COMMAND, "submit_update"),
        streamed(f"site-2.{JOB}", f"server.{JOB}", CellChannel.AUX_COMMUNICATION, "job_heart_beat"),
        message(f"site-2.{JOB}", f"server.{JOB}", "multisite_jobs", "state"),
        message("site-2", f"server.{JOB}", STREAM_CHANNEL, STREAM_ACK_TOPIC),
        message(f"site-2.{JOB}", "site-2", CellChannel.CLIENT_COMMAND, "notify"),
        streamed(f"site-2.{JOB}", f"site-1.{JOB}", CellChannel.AUX_COMMUNICATION, "swarm"),  # NVFlare's client-controlled workflows
        message("site-2", "server", CellChannel.CLIENT_MAIN, "sys.info", MessageType.REPLY),
    ],
)
def test_what_nvflare_and_this_project_send_is_let_through(honest: Message) -> None:
    assert refusal("site-2", honest) == ""


NOT_ITS_OWN = "it says that it comes from "
OTHER_NAME = "it has the name of site-22"


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (message("site-2", "site-1", CellChannel.CLIENT_MAIN, "sys.shell"), "admin/sys.shell to site-1"),
        (message("site-2", "site-1", CellChannel.CLIENT_MAIN, "train.abort"), "admin/train.abort to site-1"),
        (message("site-2", "site-1", CellChannel.CLIENT_MAIN, "train.shutdown"), "admin/train.shutdown to site-1"),
        (streamed("site-2", "site-1", CellChannel.CLIENT_MAIN, "sys.shell"), "admin/sys.shell to site-1"),
        (message(f"site-2.{JOB}", f"site-1.{JOB}", CellChannel.CLIENT_COMMAND, "abort"), "client_command/abort to site-1.job-1"),
        (streamed(f"site-2.{JOB}", f"site-1.{JOB}", CellChannel.CLIENT_COMMAND, "abort"), "client_command/abort to site-1.job-1"),
        (streamed(f"site-2.{OTHER}", f"site-1.{JOB}", CellChannel.AUX_COMMUNICATION, "x"), "aux_communication/x to site-1.job-1"),
        (streamed("site-2", f"site-1.{JOB}", CellChannel.AUX_COMMUNICATION, "x"), "aux_communication/x to site-1.job-1"),
        (message("site-2", "site-1", CellChannel.CELLNET, "bye"), "cellnet.channel/bye to site-1"),
        (message("site-2", "server", CellChannel.CELLNET, "bulk"), "cellnet.channel/bulk to server"),
        (message("site-2", "server", CellChannel.SERVER_PARENT_LISTENER, "update_run_status"), "/update_run_status to server"),
        (message("site-2", "server", CellChannel.SERVER_COMMAND, "get_task"), "server_command/get_task to server"),
        (message("site-2", "server", CellChannel.HCI, "x"), "/x to server"),
        (streamed(f"site-2.{JOB}", f"server.{JOB}", CellChannel.SERVER_COMMAND, "abort"), "server_command/abort to server.job-1"),
        (
            message(f"site-2.{JOB}", f"server.{JOB}", CellChannel.SERVER_COMMAND, "handle_dead_job"),
            "/handle_dead_job to server.job-1",
        ),
        (message(f"site-2.{OTHER}", f"server.{JOB}", "multisite_jobs", "state"), "multisite_jobs/state to server.job-1"),
        (message("site-1", "server", "multisite_tracking", "records"), f"{NOT_ITS_OWN}site-1"),
        (message("server", f"server.{JOB}", "multisite_jobs", "problem"), f"{NOT_ITS_OWN}server"),
        (message(f"site-1.{JOB}", f"server.{JOB}", "multisite_jobs", "state"), f"{NOT_ITS_OWN}site-1"),
        (message("site-2", "server", "multisite_tracking", "records", name="site-22"), OTHER_NAME),
        (message("site-22", "server", CellChannel.SERVER_MAIN, "heart_beat", name="site-22"), f"{NOT_ITS_OWN}site-22"),
        (message("site-1", "server", CellChannel.SERVER_MAIN, "x", MessageType.REPLY), f"{NOT_ITS_OWN}site-1"),
        (message("", "", ""), NOT_ITS_OWN),
    ],
)
def test_what_one_sites_kit_could_do_to_others_is_refused(hostile: Message, reason: str) -> None:
    assert reason in refusal("site-2", hostile)


def test_an_admin_speaks_to_the_server_alone() -> None:
    assert refusal(ADMIN, message(ADMIN, "server", CellChannel.HCI, "x", name="admin@example.org")) == ""
    assert refusal(ADMIN, message(ADMIN, "site-1", CellChannel.CLIENT_MAIN, "sys.shell")) == "an admin speaks to the server alone"


@pytest.mark.parametrize(("certificate", "refused"), [("site-2", True), (None, False)])
def test_a_message_is_judged_by_its_connections_certificate_and_the_servers_own_processes_have_none(
    certificate: str | None, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    forged = message("server", f"server.{JOB}", "multisite_jobs", "problem")
    forged.set_prop(MessagePropKey.ENDPOINT, SimpleNamespace(name="site-2" if certificate else f"server.{JOB}"))
    forged.set_prop(MessagePropKey.COMMON_NAME, certificate)
    check = MessageFilter()
    assert all((check.check(forged) is not None) is refused for _ in range(50))
    assert len(caplog.records) == int(refused)  # one line, however many there are
