"""NVFlare's own check of what a user may do, with the policy file of a participant's kit."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

from nvflare.apis.app_validation import AppValidationKey
from nvflare.fuel.sec.authz import AuthorizationService, AuthzContext, Person
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.security.security import FLAuthorizer

ORG = "org"


def _authorizer(policy_file: Path) -> FLAuthorizer:
    return FLAuthorizer(ORG, json.loads(policy_file.read_text(encoding="utf-8")))


def is_allowed(policy_file: Path, role: str, right: str) -> bool:
    """Whether a user of that role has a right: NVFlare's name of a command, or of a category of commands."""
    return bool(_authorizer(policy_file).authorize(AuthzContext(right, Person("user", ORG, role)))[0])


def may_bring_code(policy_file: Path, role: str) -> bool:
    """Whether a job with code of its own is deployed that a user of that role has submitted."""
    with mock.patch.object(AuthorizationService, "the_authorizer", _authorizer(policy_file)):
        allowed, reason = AppAuthzService.authorize_app_info({AppValidationKey.BYOC: True}, "user", ORG, role)
    assert allowed or reason == "BYOC not permitted"
    return bool(allowed)
