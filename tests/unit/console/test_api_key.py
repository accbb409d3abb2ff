"""Which W&B key `make up` stages: the file's, or WANDB_API_KEY, and that neither is ever shown."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from multisite.console.deployment import Deployment
from multisite.console.docker import Docker
from multisite.console.settings import ConsoleError, Settings

SHELLS, ENVS, FILES = "s" * 40, "e" * 40, "f" * 40
MALFORMED = "5ecret!with/odd characters" * 2


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def stage(home: Path) -> str:
    """What `make up` stages in a project's folder; staged twice, as `make submit` does it."""
    deployment = Deployment(Settings.load(home), Docker(home))
    deployment.stage_key()
    deployment.stage_key()
    return (home / "secrets" / ".mounted" / "wandb_api_key").read_text(encoding="utf-8")


def write_file(home: Path, text: str) -> None:
    (home / "secrets").mkdir()
    (home / "secrets" / "wandb_api_key").write_text(text, encoding="utf-8")


def test_a_key_in_the_shell_is_staged_as_the_files_is_and_said_once_with_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", f" {SHELLS} ")
    assert stage(tmp_path) == SHELLS
    belongs = tmp_path / "secrets" / "wandb_api_key"
    assert capsys.readouterr().out == f"W&B key: taken from WANDB_API_KEY, as there is no {belongs}, where it belongs\n"
    assert stat.S_IMODE((tmp_path / "secrets" / ".mounted" / "wandb_api_key").stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_a_key_in_env_is_staged_and_the_shells_goes_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(f"WANDB_API_KEY={ENVS}\n", encoding="utf-8")
    assert stage(tmp_path) == ENVS
    monkeypatch.setenv("WANDB_API_KEY", SHELLS)
    assert stage(tmp_path) == SHELLS


def test_a_key_that_is_gone_from_the_shell_is_no_longer_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SHELLS)
    stage(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY")
    assert stage(tmp_path) == ""


@pytest.mark.parametrize(("text", "holds"), [(FILES, "another key"), ("", "none")])
def test_the_file_goes_before_the_shell_and_one_line_says_so_where_they_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, holds: str
) -> None:
    write_file(tmp_path, text)
    monkeypatch.setenv("WANDB_API_KEY", SHELLS)
    assert stage(tmp_path) == text
    source = tmp_path / "secrets" / "wandb_api_key"
    assert capsys.readouterr().out == f"W&B key: WANDB_API_KEY is not used: {source} goes before it and holds {holds}\n"


def test_where_file_and_shell_are_the_same_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_file(tmp_path, f"{FILES}\n")
    monkeypatch.setenv("WANDB_API_KEY", FILES)
    assert stage(tmp_path) == FILES
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("key", [MALFORMED, "k" * 39])
def test_a_malformed_one_is_refused_by_its_name_and_nothing_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(ConsoleError, match=rf"WANDB_API_KEY: malformed API key \({len(key)} characters") as refused:
        stage(tmp_path)
    assert f"next: correct it or unset it; the key belongs in {tmp_path / 'secrets' / 'wandb_api_key'}" in str(refused.value)
    assert key[:8] not in str(refused.value) + "".join(capsys.readouterr())
    assert not (tmp_path / "secrets" / ".mounted" / "wandb_api_key").exists()


def test_a_malformed_one_beside_a_file_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path, FILES)
    monkeypatch.setenv("WANDB_API_KEY", MALFORMED)
    assert stage(tmp_path) == FILES


def test_a_named_file_that_does_not_exist_is_an_error_with_a_key_in_the_shell_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SHELLS)
    monkeypatch.setenv("WANDB_KEY_FILE", "nowhere")
    with pytest.raises(ConsoleError, match=r"WANDB_KEY_FILE=.*nowhere does not exist"):
        stage(tmp_path)


@pytest.mark.parametrize("line", ["export WANDB_API_KEY={}", "WANDB_API_KEY = {}", "{}"])
def test_a_bad_line_of_env_with_a_key_in_it_is_refused_without_the_key(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(line.format(ENVS) + "\n", encoding="utf-8")
    with pytest.raises(ConsoleError, match=r"\.env, line 1 is no NAME=value") as refused:
        Settings.load(tmp_path)
    assert ENVS not in str(refused.value)
