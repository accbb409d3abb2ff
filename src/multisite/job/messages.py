"""Messages about a job's processes, beside NVFlare's own: from a site to the server, and from the server's node to its job's process.

Whose a message is stands in its origin. The server's node lets a message pass only if that is whom the connection's certificate names
(`message_filter.py`), so neither a site's process nor its operator can speak for another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import new_cell_message

CHANNEL = "multisite_jobs"
STATE = "state"  # a site's job process -> the server's job process
ENDED = "ended"  # a site's node -> the server's node
ERRORS = "multisite_errors"  # in the job's metadata on the server: participant -> reason
PROBLEM = "problem"  # the server's node -> the server's job process
ANSWER_SECONDS = 5.0
# Set by a node for its jobs' processes; in the simulator there are no nodes, and these messages go nowhere.
NODE_VARIABLE = "MULTISITE_NODE"

logger = logging.getLogger("multisite.jobs")


def server_job(job_id: str) -> str:
    """The cell of a job's process on the server."""
    return str(FQCN.join([FQCN.ROOT_SERVER, job_id]))


def send(cell: Any, topic: str, target: str, content: dict[str, Any]) -> None:
    """Sends a message that nobody answers, and that may be lost."""
    message = new_cell_message({}, content)
    cell.core_cell.fire_and_forget(channel=CHANNEL, topic=topic, targets=target, message=message, optional=True)


def ask(cell: Any, topic: str, target: str, content: dict[str, Any]) -> bool:
    """Sends a message and says whether it was answered."""
    answer = cell.core_cell.send_request(
        channel=CHANNEL, topic=topic, target=target, request=new_cell_message({}, content), timeout=ANSWER_SECONDS, optional=True
    )
    return bool(answer.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK)


def receive(cell: Any, topic: str, take: Callable[[str, dict[str, Any]], None]) -> None:
    """Calls `take` with the sender's name (a site's, or `server`) and the content of every message. What it can't use is dropped.

    Args:
        cell: this process's.
        topic: of CHANNEL.
        take: raises KeyError, TypeError or ValueError for what it can't use.
    """

    def on_message(message: Message) -> Message:
        answer = new_cell_message({}, {})
        answer.set_header(MessageHeaderKey.RETURN_CODE, ReturnCode.OK)
        sender = str(FQCN.get_root(message.get_header(MessageHeaderKey.ORIGIN) or "") or "")
        try:
            take(sender, dict(message.payload))
        except (KeyError, TypeError, ValueError) as error:
            logger.debug("dropped a message of %r: %s", sender, error)
            answer.set_header(MessageHeaderKey.RETURN_CODE, ReturnCode.INVALID_REQUEST)
        return answer

    cell.core_cell.register_request_cb(channel=CHANNEL, topic=topic, cb=on_message)
