"""Trouble at the backend is said by its HTTP status, or in the SDK's own words, and never guessed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from wandb.errors import AuthenticationError, CommError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from multisite.tracking.troubles import TROUBLES, refusal


def api_error(status: int) -> Exception:
    """As `wandb.Api` raises it when the backend answers with a status."""
    failed = WandbApiFailedError(f"returned error {status}: denied")
    failed.response = SimpleNamespace(http_status=status)  # type: ignore[assignment]
    try:
        raise AuthenticationError("Failed to verify credentials") from failed
    except AuthenticationError as error:
        return error


@pytest.mark.parametrize("status", TROUBLES)
def test_a_status_that_the_sdk_gives_is_said_with_what_it_means_and_what_cures_it(status: int) -> None:
    state, meaning, cure = TROUBLES[status]
    said = refusal("W&B", api_error(status))
    assert said.state == state
    assert str(said) == f"W&B {meaning} (HTTP {status}: Failed to verify credentials); next: {cure}"


def test_a_full_quota_is_not_the_keys_fault() -> None:
    said = refusal("W&B", CommError("Failed to get resume status for run a: returned error 403: storage limit exceeded"))
    assert "refused the API key" not in str(said)
    assert "storage limit exceeded" in str(said)
    assert "storage quota" in str(said)


def test_another_status_is_said_as_it_is() -> None:
    assert str(refusal("W&B", CommError("returned error 418: teapot"))) == "W&B answers HTTP 418 (returned error 418: teapot)"


@pytest.mark.parametrize(
    "error",
    [
        TypeError("init() got an unexpected keyword argument 'colour'"),
        CommError("entity 4010 not found; run 403 is unauthorized, permission denied"),
        TimeoutError("Timed out waiting for response"),
    ],
)
def test_without_a_status_the_sdks_own_text_is_said_as_not_classified(error: Exception) -> None:
    said = refusal("W&B", error)
    assert said.state == "unreachable"
    assert str(said) == f"W&B does not answer, or not as expected; not classified: {type(error).__name__}: {error}"
