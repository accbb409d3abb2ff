"""A project.yml that NVFlare, or this deployment, can't work with is refused in a person's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from multisite.provisioning.project import ProvisionError, effective_project, scheme_of

PROJECT = Path(__file__).parents[3] / "project.yml"


@pytest.mark.parametrize("missing", ["server", "client", "admin"])
def test_a_project_without_a_server_a_site_or_an_admin_is_an_error_with_the_next_step(missing: str) -> None:
    content = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    content["participants"] = [entry for entry in content["participants"] if entry["type"] != missing]
    with pytest.raises(ProvisionError, match=rf"it has no {missing}: it needs .*\n  next: .*type: {missing}"):
        effective_project(content, [], 8002)


SITE = {"name": "site-3", "type": "client", "org": "hospital_c"}


@pytest.mark.parametrize(
    ("added", "problem", "proposal"),
    [
        ({**SITE, "org": "hospital-c"}, "participant site-3: org 'hospital-c'", "org: hospital_c"),
        ({**SITE, "org": 7}, "participant site-3: org is 7", "org: hospital_c"),
        ({**SITE, "name": "site 3/x"}, "participant site 3/x: a client's name", "name: site-3-x"),
        ({**SITE, "name": "site.3"}, "participant site.3: a client's name", "name: site-3"),
        ({**SITE, "name": "admin"}, "participant admin: a client's name is the admin's folder", "name: site-3"),
        ({**SITE, "name": "site-1"}, "2 participants are called site-1", "give each a name of its own"),
        ({**SITE, "type": "klient"}, "participant site-3: type 'klient' is not one of server, client, admin", "type: client"),
        ({"type": "client", "org": "x"}, "participant 5: name is None", "name: site-3"),
        ({**SITE, "name": "second", "type": "server"}, "it has 2 servers (server, second)", "leave one"),
        ({**SITE, "name": "se_rver", "type": "server"}, "a server's name has to be a host name", "name: server"),
        ({**SITE, "name": "jo", "type": "admin", "role": "lead"}, "participant jo: an admin's name", "name: jo@example.org"),
        ({**SITE, "name": "jo@example.org", "type": "admin"}, "participant jo@example.org: role is None", "role: project_admin"),
    ],
)
def test_a_participant_that_nvflare_would_refuse_is_named_with_the_rule_and_a_proposal(
    added: dict[str, Any], problem: str, proposal: str
) -> None:
    content = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    content["participants"].append(added)
    with pytest.raises(ProvisionError) as refused:
        effective_project(content, [], 8002)
    said, _, next_step = str(refused.value).partition("\n  next: ")
    assert problem in said
    assert next_step.startswith(proposal)


def test_a_second_admin_is_refused_before_it_takes_the_firsts_place() -> None:
    content = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    content["participants"].append({"name": "two@example.org", "type": "admin", "org": "x", "role": "lead"})
    with pytest.raises(
        ProvisionError, match=r"it has 2 admins .*two@example.org.*, and this deployment runs one\n  next: leave one"
    ):
        effective_project(content, [], 8002)


def test_a_public_name_that_is_no_host_name_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(ProvisionError, match=r"SERVER_NAMES: 'fl_x\.example\.org' is no host name"):
        effective_project(yaml.safe_load(PROJECT.read_text(encoding="utf-8")), ["fl.example.org", "fl_x.example.org"], 8002)


def with_scheme(**arguments: Any) -> dict[str, Any]:
    content = dict(yaml.safe_load(PROJECT.read_text(encoding="utf-8")))
    (builder,) = (one for one in content["builders"] if one["path"].endswith("StaticFileBuilder"))
    builder["args"] = {"connection_security": "mtls", **arguments}
    return content


@pytest.mark.parametrize(("arguments", "scheme"), [({}, "http"), ({"scheme": "http"}, "http"), ({"scheme": "grpc"}, "grpc")])
def test_nvflares_http_and_grpc_are_the_schemes_that_a_project_may_have(arguments: dict[str, Any], scheme: str) -> None:
    assert scheme_of(effective_project(with_scheme(**arguments), [], 8002)) == scheme


@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        ("tcp", "one connection's TLS handshake at a time: whoever connects and says nothing keeps every site out"),
        (" TCP", "one connection's TLS handshake at a time"),
        ("uds", "is not one of those"),
        (7, "is not one of those"),
    ],
)
def test_another_scheme_is_refused_with_the_reason_and_the_ones_that_there_are(scheme: object, why: str) -> None:
    with pytest.raises(ProvisionError) as refused:
        effective_project(with_scheme(scheme=scheme), [], 8002)
    said, _, next_step = str(refused.value).partition("\n  next: ")
    assert said.startswith(f"project.yml: NVFlare's scheme '{scheme}' ")
    assert why in said
    assert next_step.startswith("scheme: http or grpc")
