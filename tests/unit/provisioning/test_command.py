"""The command of the provision one-shot: its settings, its exit status, and its answers."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from multisite.provisioning import provision
from tests.unit.provisioning.conftest import PORT, PROJECT, PUBLIC, Place


def command(
    place: Place, monkeypatch: pytest.MonkeyPatch, file: Path = PROJECT, more: tuple[str, ...] = (), **environment: str
) -> int:
    """The one-shot's exit status."""
    for name in ("SERVER_NAMES", "SERVER_PORT"):
        monkeypatch.setenv(name, environment.get(name, ""))
    folders = ["--state", str(place.state), "--kits", str(place.kits)]
    monkeypatch.setattr(sys, "argv", ["provision", "--project", str(file), *folders, *more])
    return provision.main()


def test_the_commands_settings_come_from_the_environment(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ", ".join([*PUBLIC, ""])
    assert command(place, monkeypatch, SERVER_NAMES=names, SERVER_PORT=str(PORT)) == 0
    assert capsys.readouterr().out == "kits are up to date\n"


@pytest.mark.parametrize("content", ["participants: [", "participants: []\n", "name: x\n", "", "a list\n", "participants: [1]\n"])
def test_a_broken_project_file_is_exit_status_2_with_the_next_step(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = tmp_path / "project.yml"
    file.write_text(content, encoding="utf-8")
    assert command(place, monkeypatch, file) == 2
    message = capsys.readouterr().err
    assert message.startswith("provision: project.yml")
    assert "\n  next: " in message


def test_what_is_no_yaml_is_named_by_line_and_column(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "project.yml"
    file.write_text("name: x\nparticipants:\n  - name: server\n\ttype: server\n", encoding="utf-8")
    assert command(place, monkeypatch, file) == 2
    assert capsys.readouterr().err.startswith("provision: project.yml, line 4, column 1: no valid YAML (found character '\\t'")


def test_a_missing_project_file_is_exit_status_2_that_names_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(place, monkeypatch, tmp_path / "absent.yml") == 2
    assert "absent.yml" in capsys.readouterr().err


def test_the_command_writes_a_sites_kit_to_standard_output_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def run(site: str) -> tuple[int, bytes, bytes]:
        return (command(place, monkeypatch, more=(f"--export={site}",)), *capfdbinary.readouterr())

    code, out, err = run("site-1")
    assert (code, err) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert {"site-1/startup/client.key", "site-1/local/resources.json"} <= set(archive.getnames())
    code, out, err = run("site-77")
    assert (code, out) == (2, b"")
    assert err.startswith(b"provision: project.yml has no site site-77\n  next: ")
