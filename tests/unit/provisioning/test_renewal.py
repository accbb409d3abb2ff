"""Another scheme, another NVFlare, and sites on other hosts: whose kit is another one then, and who is named."""

from __future__ import annotations

import importlib.metadata
import io
import re
import tarfile
from typing import Any

import pytest

from multisite.provisioning import handout, provision
from multisite.provisioning.handout import STAMP
from multisite.provisioning.kit import read_kit
from multisite.provisioning.project import ProvisionError
from multisite.provisioning.provision import Provisioner, Renewal
from tests.unit.provisioning.conftest import ADMIN, EVERYBODY, FOLDERS, PROJECT, Place, project

REMOTE_SITES = PROJECT.with_name("docs") / "remote-sites.md"


def with_scheme(content: dict[str, Any], scheme: str) -> dict[str, Any]:
    (builder,) = (one for one in content["builders"] if one["path"].endswith("StaticFileBuilder"))
    builder["args"]["scheme"] = scheme
    return content


def export(place: Place, site: str, content: dict[str, Any]) -> dict[str, bytes]:
    """What `make kit` is given for a site: path -> content."""
    stream = io.BytesIO()
    handout.export(place.state, Provisioner(content, place.state, place.kits).kit(site), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in files.items() if file}


def test_another_scheme_renews_every_kit_that_names_it_and_says_why(place: Place) -> None:
    before = {name: place.certificate(name) for name in FOLDERS}
    renewal = place.renew(with_scheme(project(sites=("site-3",)), "grpc"))
    assert renewal == Renewal(EVERYBODY, ["site-3"], ["scheme is grpc and was http"])
    assert read_kit(place.kits / "site-1").scheme == "grpc"
    assert {name: place.certificate(name) for name in FOLDERS} == before
    assert f"```text\n{renewal}\n```" in REMOTE_SITES.read_text(encoding="utf-8")


def another_nvflare(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """Its number alone: what it makes is what this one makes."""
    run = provision.subprocess.run
    monkeypatch.setattr(provision.importlib.metadata, "version", lambda name: f"{name} of tomorrow")
    monkeypatch.setattr(provision.subprocess, "run", lambda command, **more: (asked.append(command[1]), run(command, **more))[1])


def test_another_nvflare_makes_every_kit_anew_and_the_ones_that_are_as_before_are_no_new_kits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, asked = place.snapshot(), list[str]()
    now = importlib.metadata.version("nvflare")
    another_nvflare(monkeypatch, asked)
    renewal = place.renew(project())
    assert renewal == Renewal([], [], [f"NVFlare is nvflare of tomorrow and was {now}"])
    assert str(renewal) == "kits are up to date"
    assert asked == ["provision"]
    assert place.snapshot() == before
    assert place.renew(project()) == Renewal([], [], [])
    assert asked == ["provision"]


def test_another_nvflare_whose_kits_differ_is_named_with_the_participants(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = importlib.metadata.version("nvflare")
    another_nvflare(monkeypatch, [])
    for name in ("site-1", "site-2"):
        (place.kits / name / STAMP).write_text("of a kit that the NVFlare of before made", encoding="utf-8")
    said = str(place.renew(project()))
    assert said == f"kits are made anew: NVFlare is nvflare of tomorrow and was {now}\nnew kits: site-1, site-2"


def test_what_an_older_release_noted_of_its_kits_is_read_as_nothing(place: Place) -> None:
    for noted in ("7" * 64, "3e" + "5" * 62, "ab" * 32, "[]", ""):
        (place.state / STAMP).write_text(noted, encoding="utf-8")
        assert place.renew(project()) == Renewal([], [], []), noted


def test_a_site_on_another_host_is_named_until_its_kit_is_written_and_again_when_that_is_another(place: Place) -> None:
    content = project(sites=("site-9",))
    assert place.renew(content).elsewhere == ["site-9"]
    assert place.renew(content).elsewhere == ["site-9"]
    export(place, "site-9", content)
    assert place.renew(content).elsewhere == []
    more = project(sites=("site-9", "site-10"))
    assert place.renew(more).elsewhere == ["site-10"], "site-9's kit is the same"
    renewal = place.renew(with_scheme(more, "grpc"))
    assert renewal.elsewhere == ["site-9", "site-10"]
    assert "site-9 is on another host and needs its new kit: make kit SITE=site-9\n" in str(renewal)
    assert str(renewal).splitlines()[-1] == f"new kits: {', '.join(EVERYBODY)}"


def test_a_dry_run_names_a_site_on_another_host_and_notes_nothing(place: Place) -> None:
    content = project(sites=("site-9",))
    place.renew(content)
    export(place, "site-9", content)
    assert provision.dry_run(with_scheme(project(sites=("site-9",)), "grpc"), place.state, place.kits).elsewhere == ["site-9"]
    assert place.renew(content).elsewhere == []


def test_what_make_kit_is_given_is_the_sites_whole_kit_and_nobody_elses(place: Place) -> None:
    content = project(sites=("site-9",))
    place.renew(content)
    files = {f"site-9/{path.relative_to(place.latest / 'site-9')}": path.read_bytes()
             for path in (place.latest / "site-9").rglob("*") if path.is_file()}  # fmt: skip
    assert "site-9/startup/client.key" in files
    assert export(place, "site-9", content) == files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("site-8", "project.yml has no site site-8\n  next: add it there as a client, make up, make kit SITE=site-8"),
        ("../server", "project.yml has no site ../server\n  next: add it there as a client"),
        ("server", "server is the server and stays on this host: kits are for sites on other hosts\n  next: make kit SITE=site-2"),
        ("admin", "admin is the admin and stays on this host: kits are for sites on other hosts\n  next: make kit SITE=site-2"),
        (ADMIN, f"{ADMIN} is the admin and stays on this host: kits are for sites on other hosts\n  next: make kit SITE=site-2"),
    ],
)
def test_a_kit_of_nobody_who_is_a_site_is_refused_with_the_next_step(place: Place, name: str, said: str) -> None:
    with pytest.raises(ProvisionError, match=re.escape(said)):
        export(place, name, project())
    assert not (place.state / handout.EXPORTED).exists()


def test_a_site_of_this_host_that_was_renamed_in_the_project_file_is_refused_and_keeps_its_kit(place: Place) -> None:
    content, before = project(), place.snapshot()
    next(one for one in content["participants"] if one["name"] == "site-2")["name"] = "hospital-b"
    with pytest.raises(
        ProvisionError, match=r"project.yml: it has no site-2, and compose.yaml runs that site on this host\n  next: name: site-2"
    ):
        place.renew(content)
    assert place.snapshot() == before
    assert place.run(project()) == []


def test_a_project_that_changes_for_the_hundredth_time_is_provisioned_like_the_first(place: Place) -> None:
    place.latest.rename(place.latest.with_name("prod_99"))  # NVFlare's last: it says so, makes none, and ends without an error
    (place.kits / "site-3").mkdir()
    assert place.run(project(sites=("site-3",))) == ["site-3"]
    assert place.latest.name < "prod_09"
