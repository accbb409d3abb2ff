"""On the server's node: whom a site's processes may speak to, and as whom. Every message between participants passes here.

NVFlare's server hands on any message that carries a valid token, to any cell: one site's kit could run NVFlare's commands on every other
site, and abort its jobs. It signs name and token without a mark between them, and takes an unknown token's word for where a message
comes from (`nvflare/private/fed/authenticator.py`, `validate_auth_headers`), so a kit could speak as others. Here the name is the one
that the connection's certificate has.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import ServerCommandNames
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import CellChannel, CellChannelTopic, MessageHeaderKey, MessagePropKey, MessageType, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.download_service import OBJ_DOWNLOADER_CHANNEL
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.private.defs import CellMessageHeaderKeys
from nvflare.private.fed.server.server_engine import ServerEngine

from multisite.text import clean

# What a site's processes never ask of the server: the commands of its own jobs, and a person's.
SERVERS_OWN = (CellChannel.SERVER_PARENT_LISTENER, CellChannel.HCI, CellChannel.CLIENT_MAIN, CellChannel.CLIENT_COMMAND)
# What they ask of a job's process there, of NVFlare's commands.
OF_A_JOB = (ServerCommandNames.GET_TASK, ServerCommandNames.SUBMIT_UPDATE)
# What the processes of one job may send each other from site to site (NVFlare's client-controlled workflows).
BETWEEN_SITES = (CellChannel.AUX_COMMUNICATION, CellChannel.RETURN_ONLY, OBJ_DOWNLOADER_CHANNEL, STREAM_CHANNEL)
SAY_SECONDS = 60.0

logger = logging.getLogger("multisite.messages")


def refusal(sender: str, message: Message) -> str:
    """Why a message is not let through; empty if it is.

    Args:
        sender: the name that the connection's certificate has: a site's, or an admin client's.
        message: as it came.
    """
    origin, destination = (
        FQCN.split(message.get_header(name) or "?") for name in (MessageHeaderKey.ORIGIN, MessageHeaderKey.DESTINATION)
    )
    if origin[0] != sender:
        return f"it says that it comes from {clean(origin[0], 60)}"
    if is_valid_admin_client_name(sender):
        return "" if destination[0] == FQCN.ROOT_SERVER else "an admin speaks to the server alone"
    name = message.get_header(CellMessageHeaderKeys.CLIENT_NAME)
    if name is not None and name != sender:
        return f"it has the name of {clean(name, 60)}"
    if message.get_header(MessageHeaderKey.MSG_TYPE) != MessageType.REQ or destination[0] == sender:
        return ""
    channel, topic = message.get_header(MessageHeaderKey.CHANNEL), message.get_header(MessageHeaderKey.TOPIC)
    if (channel, topic) == (STREAM_CHANNEL, STREAM_DATA_TOPIC):  # a piece of a longer message: what that one is counts
        channel, topic = message.get_header(StreamHeaderKey.CHANNEL), message.get_header(StreamHeaderKey.TOPIC)
    allowed = _to_the_server if destination[0] == FQCN.ROOT_SERVER else _to_another_site
    if allowed(origin, destination, channel, topic):
        return ""
    return f"a site may not send {clean(channel, 60)}/{clean(topic, 60)} to {clean('.'.join(destination), 120)}"


def _to_the_server(origin: list[str], destination: list[str], channel: Any, topic: Any) -> bool:
    if channel in SERVERS_OWN or (channel == CellChannel.CELLNET and topic != CellChannelTopic.Bye):
        return False
    if len(destination) == 1:
        return bool(channel != CellChannel.SERVER_COMMAND)
    if channel == STREAM_CHANNEL:  # a receipt, or that a piece could not be handed on: a node says that for its jobs too
        return True
    same_job = origin[1:2] == destination[1:2]
    return same_job and (channel != CellChannel.SERVER_COMMAND or topic in OF_A_JOB)


def _to_another_site(origin: list[str], destination: list[str], channel: Any, topic: Any) -> bool:
    same_job = len(origin) > 1 and origin[1:2] == destination[1:2]
    return same_job and channel in BETWEEN_SITES


class MessageFilter(FLComponent):
    """Part of the server's node (`local/resources.json`)."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        engine = fl_ctx.get_engine()
        if event_type == EventType.SYSTEM_START and isinstance(engine, ServerEngine):
            engine.get_cell().core_cell.add_incoming_filter(channel="*", topic="*", cb=self.check)

    def check(self, message: Message) -> Message | None:
        """NVFlare's filter seam: what is returned is why the message goes no further."""
        if not message.get_prop(MessagePropKey.COMMON_NAME):
            return None  # of the server's own processes: they connect without a certificate, from inside its container
        sender = str(FQCN.get_root(message.get_prop(MessagePropKey.ENDPOINT).name))  # NVFlare has compared it with the certificate
        reason = refusal(sender, message)
        if not reason:
            return None
        if time.monotonic() - self._said.get(sender, -SAY_SECONDS) >= SAY_SECONDS:
            self._said[sender] = time.monotonic()
            logger.warning("refused a message of %s: %s", clean(sender, 60), reason)
        return make_reply(ReturnCode.UNAUTHENTICATED, error=reason)
