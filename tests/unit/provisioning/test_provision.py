"""Provisioning with NVFlare's own tool: who gets which kit, when, and what a kit allows."""

from __future__ import annotations

import copy
import json
import shutil
import sys

import pytest
import yaml

from multisite.job.components import OUR_COMPONENTS
from multisite.provisioning import policy, provision
from multisite.provisioning.handout import STAMP
from multisite.provisioning.kit import KitError, read_kit, server_names
from multisite.provisioning.project import ProvisionError, effective_project
from tests.unit.certificates import ENDED, expired_certificate
from tests.unit.nvflare_authorization import is_allowed, may_bring_code
from tests.unit.provisioning.conftest import EVERYBODY, FOLDERS, PORT, PROJECT, PUBLIC, Place, project


def test_every_participant_gets_its_own_kit(first: Place) -> None:
    kits = {name: read_kit(first.kits / name) for name in FOLDERS}
    assert {name: kit.role for name, kit in kits.items()} == {
        "server": "server", "site-1": "client", "site-2": "client", "admin": "admin",
    }  # fmt: skip
    assert [kits[name].name for name in FOLDERS] == EVERYBODY
    assert {kit.org for kit in kits.values()} == {"multisite"}
    for kit in kits.values():
        kit.check_valid()


def test_no_kit_holds_the_root_key_or_anothers_key(first: Place) -> None:
    keys = [path.read_bytes() for path in first.kits.rglob("*.key")]
    assert len(keys) == len(set(keys)) == len(FOLDERS)
    root_key = json.loads((first.state / "multisite" / "state" / "cert.json").read_text(encoding="utf-8"))["root_pri_key"]
    assert "PRIVATE KEY" in root_key
    body = root_key.splitlines()[1].encode()
    assert not [path for path in first.kits.rglob("*") if path.is_file() and body in path.read_bytes()]


def test_private_keys_and_the_state_are_their_owners_alone(first: Place) -> None:
    private = [*first.kits.rglob("*.key"), *(first.state / "multisite" / "state").iterdir()]
    assert (first.state / "multisite" / "state" / "cert.json") in private
    assert {oct(path.stat().st_mode & 0o777) for path in private} == {"0o600"}


def test_a_second_run_changes_nothing(place: Place) -> None:
    before = place.snapshot()
    assert place.run(project()) == []
    assert place.snapshot() == before


def test_a_second_run_does_not_ask_nvflare(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision.subprocess, "run", lambda *_, **__: pytest.fail("nvflare was run again"))
    assert place.run(project()) == []


def test_a_lost_kit_is_handed_out_again_with_the_same_certificate(place: Place) -> None:
    before = place.certificate("site-2")
    shutil.rmtree(place.kits / "site-2")
    (place.kits / "site-2").mkdir()
    assert place.run(project()) == ["site-2"]
    assert place.certificate("site-2") == before


def test_a_new_site_gets_a_kit_and_the_others_keep_their_certificates(place: Place) -> None:
    before = {name: place.certificate(name) for name in ("site-1", "site-2", "admin")}
    (place.kits / "site-3").mkdir()
    assert "site-3" in place.run(project(sites=("site-3",)))
    assert read_kit(place.kits / "site-3").name == "site-3"
    assert {name: place.certificate(name) for name in before} == before


def test_a_new_site_trusts_the_root_that_the_others_trust(place: Place) -> None:
    (place.kits / "site-3").mkdir()
    place.run(project(sites=("site-3",)))
    roots = {(place.kits / name / "startup" / "rootCA.pem").read_bytes() for name in (*FOLDERS, "site-3")}
    assert len(roots) == 1


def test_a_site_on_another_host_needs_no_folder_here(place: Place) -> None:
    place.run(project(sites=("site-9",)))
    assert not (place.kits / "site-9").exists()
    assert read_kit(place.latest / "site-9").name == "site-9"


def test_the_public_names_are_in_the_servers_certificate(first: Place) -> None:
    assert set(server_names(first.kits / "server")) >= {"server", *PUBLIC}


def test_new_public_names_renew_the_servers_certificate_alone(place: Place) -> None:
    before = {name: place.certificate(name) for name in FOLDERS}
    assert "server" in place.run(project(["other.example.org"]))
    names = server_names(place.kits / "server")
    assert "other.example.org" in names
    assert "fl.example.org" not in names
    assert {name for name in FOLDERS if place.certificate(name) != before[name]} == {"server"}


def test_the_port_is_in_every_kit(first: Place) -> None:
    server = first.read("server", "startup", "fed_server.json")["servers"][0]
    assert server["admin_port"] == PORT
    assert server["service"]["target"] == f"server:{PORT}"
    for name in ("site-1", "site-2", "admin"):
        texts = [path.read_text(encoding="utf-8") for path in (first.kits / name / "startup").glob("*.json")]
        assert any(str(PORT) in text for text in texts), name
        assert not any("8002" in text for text in texts), name


def test_another_port_reaches_the_kits(place: Place) -> None:
    assert set(place.run(project(port=9100))) >= {"server", "site-1", "site-2"}
    assert place.read("server", "startup", "fed_server.json")["servers"][0]["admin_port"] == 9100


@pytest.mark.parametrize("name", ["server", "site-1", "site-2"])
def test_a_kit_refuses_code_that_arrives_with_a_job(first: Place, name: str) -> None:
    file = first.kits / name / "local" / policy.AUTHORIZATION
    assert not [role for role in ("project_admin", "lead") if may_bring_code(file, role)]
    assert not is_allowed(file, "project_admin", "shell_commands")
    assert is_allowed(file, "project_admin", "submit_job")


@pytest.mark.parametrize("name", ["server", "site-1", "site-2"])
def test_a_kit_allows_our_components_by_name(first: Place, name: str) -> None:
    allowed = first.read(name, "local", policy.RESOURCES)["class_allow_list"]
    assert set(OUR_COMPONENTS) <= set(allowed)
    assert not [entry for entry in allowed if entry in ("*", "multisite", "multisite.*")]


@pytest.mark.parametrize("name", OUR_COMPONENTS)
def test_every_allowed_component_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    __import__(module)
    assert isinstance(getattr(sys.modules[module], attribute), type)


def test_a_server_keeps_jobs_in_its_volume_and_notices_a_lost_site_soon(first: Place) -> None:
    resources = first.read("server", "local", policy.RESOURCES)
    manager = next(component for component in resources["components"] if component["id"] == "job_manager")
    assert manager["args"]["uri_root"].startswith("/workspace/")
    assert resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"].startswith("/workspace/")
    assert resources["servers"][0]["heart_beat_timeout"] <= 60


@pytest.mark.parametrize("name", ["server", "site-1", "site-2"])
def test_every_participant_has_the_watch_that_says_when_it_is_ready(first: Place, name: str) -> None:
    paths = [component["path"] for component in first.read(name, "local", policy.RESOURCES)["components"]]
    assert "multisite.node.engine.NodeWatch" in paths


def test_a_site_says_what_it_has_to_offer(first: Place) -> None:
    components = {component["id"]: component for component in first.read("site-1", "local", policy.RESOURCES)["components"]}
    assert components["resource_manager"]["path"] == "multisite.node.resources.SiteResources"


def test_a_server_that_no_container_is_called_after_is_refused_before_anything_is_made(place: Place) -> None:
    content = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    content["participants"][0]["name"] = "fl.example.org"
    before = place.snapshot()
    with pytest.raises(
        ProvisionError, match=r"(?s)the server is called fl.example.org.*name: server, and SERVER_NAMES=fl.example.org"
    ):
        place.run(effective_project(content, [], PORT))
    assert place.snapshot() == before


def test_a_new_site_renews_no_kit_that_is_in_use(place: Place) -> None:
    (place.kits / "site-3").mkdir()
    assert place.run(project(sites=("site-3",))) == ["site-3"]


def test_a_dry_run_says_whose_kit_would_be_new_and_changes_nothing(place: Place) -> None:
    state = {str(path): path.stat().st_mtime_ns for path in sorted(place.state.rglob("*"))}
    before = place.snapshot()
    assert provision.dry_run(project(["other.example.org"]), place.state, place.kits).here == ["server"]
    assert provision.dry_run(project(), place.state, place.kits).here == []
    assert place.snapshot() == before
    assert {str(path): path.stat().st_mtime_ns for path in sorted(place.state.rglob("*"))} == state


def test_a_project_that_nvflare_refuses_is_an_error_with_its_words(place: Place) -> None:
    content = project()
    content["builders"].append({"path": "nvflare.no.such.Builder"})
    with pytest.raises(ProvisionError, match=r"nvflare provision failed \(\d+\)") as failed:
        place.run(content)
    assert "next: correct project.yml" in str(failed.value)


def test_a_failed_run_is_tried_again_by_the_next(place: Place) -> None:
    content = project(["late.example.org"])
    broken = copy.deepcopy(content)
    broken["builders"].append({"path": "nvflare.no.such.Builder"})
    with pytest.raises(ProvisionError, match="nvflare provision failed"):
        place.run(broken)
    assert "server" in place.run(content)
    assert "late.example.org" in server_names(place.kits / "server")


def test_an_expired_kit_stops_provisioning_before_anybody_gets_a_kit(place: Place) -> None:
    (place.latest / "site-1" / "startup" / "client.crt").write_bytes(expired_certificate("site-1", ENDED))
    (place.kits / "server" / STAMP).unlink()  # it would be handed a kit
    with pytest.raises(KitError, match="site-1 expired on 2024-02-29"):
        place.run(project())
    assert not (place.kits / "server" / STAMP).exists()
