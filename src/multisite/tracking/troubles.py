"""What is wrong at the backend, by the HTTP status that W&B's SDK gives; without one, the SDK's own text."""

from __future__ import annotations

import re

from multisite.text import clean

TEXT_CHARACTERS = 200
MOST_CAUSES = 5
STATUS = re.compile(r"\b(?:returned error|HTTP) (\d{3})\b")  # how wandb-core puts it where an error has the text alone
TROUBLES = {  # status -> state, what it means, and what cures it
    401: ("refused", "refused the API key", "correct the key (secrets/wandb_api_key, or WANDB_API_KEY), then make up"),
    402: ("refused", "wants to be paid", "look at the plan and the billing of the account"),
    403: ("refused", "forbids this to the API key", "look at WANDB_ENTITY, WANDB_PROJECT, the key's rights, and the storage quota"),
    404: ("unreachable", "has no such place", "look at WANDB_BASE_URL, WANDB_ENTITY and WANDB_PROJECT"),
    407: ("unreachable", "is behind a proxy that wants a login", "look at HTTPS_PROXY"),
    409: ("refused", "says that this run was deleted", "nothing: its records are kept here; in W&B its id can't be used again"),
    413: ("unreachable", "takes no request of this size", "look at the limit of the proxy before it"),
    429: ("unreachable", "takes no more requests for now", "nothing: it is tried again"),
}


class Refusal(Exception):
    """The backend did not do what it was asked. `state`: `refused`, `unreachable`, `misconfigured`, or `connecting` (try again)."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def http_status(error: BaseException) -> int:
    """The HTTP status that an error of the SDK, or one that caused it, carries; 0 if none does.

    `wandb/sdk/lib/service/service_connection.py` (`WandbApiFailedError.response.http_status`); `requests` has `status_code`.
    """
    cause: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if cause is None:
            break
        response = getattr(cause, "response", None)
        for name in ("http_status", "status_code"):
            if status := getattr(response, name, 0):
                return int(status)
        cause = getattr(cause, "exc", None) or cause.__cause__ or cause.__context__
    found = STATUS.search(str(error))
    return int(found[1]) if found else 0


def refusal(host: str, error: Exception) -> Refusal:
    """The trouble that an error of the SDK stands for.

    Args:
        host: the backend, as it is said.
        error: the SDK's; it raises a dozen kinds.
    """
    text = clean(" ".join(str(error).split()), TEXT_CHARACTERS)
    if status := http_status(error):
        return status_refusal(host, status, text)
    return Refusal("unreachable", f"{host} does not answer, or not as expected; not classified: {type(error).__name__}: {text}")


def status_refusal(host: str, status: int, text: str = "") -> Refusal:
    """The trouble that an HTTP status stands for.

    Args:
        host: the backend, as it is said.
        status: not a 2xx.
        text: of the answer, where there is one.
    """
    answer = f"HTTP {status}: {text}" if text else f"HTTP {status}"
    if status in TROUBLES:
        state, meaning, cure = TROUBLES[status]
        return Refusal(state, f"{host} {meaning} ({answer}); next: {cure}")
    return Refusal("unreachable", f"{host} answers HTTP {status}{f' ({text})' if text else ''}")


def has_no_such_field(error: Exception) -> bool:
    """Whether a server does not know what it was asked (GraphQL's own wording), or has no such query at all."""
    return http_status(error) in (405, 501) or "Cannot query field" in str(error)
