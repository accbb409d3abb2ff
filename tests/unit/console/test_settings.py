"""The deployment's settings: `.env`, make variables, and what make itself writes there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from multisite.console.settings import MANAGED, ConsoleError, Settings, read_env

NAMES = ("SERVER_PORT", "ALLOW_CUSTOM_CODE", "GPUS", "LOG", "CIFAR10_DIR", "CA_BUNDLE", "WANDB_KEY_FILE", "BIND_ADDRESS", "ROUNDS")


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def write(home: Path, text: str) -> Path:
    path = home / ".env"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_env_file_is_read_without_comments_spaces_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "# a comment\n\nSERVER_PORT=9002 # ours\n  LOG=json\nWANDB_TAGS='x y'\nDATASET=\"z\"\nGPUS=\n")
    assert read_env(path) == {"SERVER_PORT": "9002", "LOG": "json", "WANDB_TAGS": "x y", "DATASET": "z", "GPUS": ""}


def test_a_missing_env_file_is_empty(tmp_path: Path) -> None:
    assert read_env(tmp_path / ".env") == {}


@pytest.mark.parametrize("line", ["nonsense", "SERVER PORT=1", "1ST=x", "=x", "export A=1"])
def test_a_bad_line_is_an_error_with_its_file_and_number(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, f"# one\nLOG=plain\n{line}\n")
    with pytest.raises(ConsoleError) as refused:
        read_env(path)
    assert ".env, line 3 is no NAME=value\n" in str(refused.value)
    assert f"next: correct {path}" in str(refused.value)


def test_without_a_file_the_settings_are_the_defaults(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    assert (settings.port, settings.address) == (8002, "127.0.0.1")
    assert settings.key_file == tmp_path / "secrets" / "wandb_api_key"
    assert settings.path("CIFAR10_DIR") is None


def test_the_command_lines_variables_come_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "SERVER_PORT=9002\nLOG=json\n")
    monkeypatch.setenv("SERVER_PORT", "9003")
    settings = Settings.load(tmp_path)
    assert settings.port == 9003
    assert settings.get("LOG") == "json"


def test_an_empty_variable_leaves_the_files_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "SERVER_PORT=9002\n")
    monkeypatch.setenv("SERVER_PORT", "")
    assert Settings.load(tmp_path).port == 9002


def test_an_empty_setting_counts_as_not_given(tmp_path: Path) -> None:
    write(tmp_path, "SERVER_PORT=\nGPUS=\nLOG=\nCIFAR10_DIR=\n")
    settings = Settings.load(tmp_path)
    assert settings.port == 8002
    assert settings.get("GPUS", "auto") == "auto"


def test_a_path_is_relative_to_the_projects_folder(tmp_path: Path) -> None:
    (tmp_path / "cifar").mkdir()
    write(tmp_path, f"CIFAR10_DIR=cifar\nWANDB_KEY_FILE={tmp_path}/mine\n")
    settings = Settings.load(tmp_path)
    assert settings.path("CIFAR10_DIR") == tmp_path / "cifar"
    assert settings.key_file == tmp_path / "mine"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("SERVER_PORT=0", "SERVER_PORT=0 is no port"),
        ("SERVER_PORT=65536", "SERVER_PORT=65536 is no port"),
        ("SERVER_PORT=-1", "SERVER_PORT=-1 is no port"),
        ("SERVER_PORT=http", "SERVER_PORT=http is no port"),
        ("SERVER_PORT=80.5", "SERVER_PORT=80.5 is no port"),
        ("GATEWAY_RATE=many", "GATEWAY_RATE=many is no whole number above 0"),
        ("GATEWAY_PER_ADDRESS=0", "GATEWAY_PER_ADDRESS=0 is no whole number above 0"),
        ("GPUS=some", "GPUS=some is not one of auto, none, all"),
        ("ALLOW_CUSTOM_CODE=true", "ALLOW_CUSTOM_CODE=true is not yes or no"),
        ("LOG=loud", "LOG=loud is not plain, detail or json"),
        ("CIFAR10_DIR=absent", "/absent does not exist"),
        ("CA_BUNDLE=absent.pem", "/absent.pem does not exist"),
    ],
)
def test_a_bad_setting_is_an_error_that_names_it_with_the_next_step(tmp_path: Path, line: str, problem: str) -> None:
    write(tmp_path, line + "\n")
    with pytest.raises(ConsoleError) as refused:
        Settings.load(tmp_path)
    message = str(refused.value)
    assert message.startswith(f"settings: {line.split('=')[0]}=")
    assert problem in message
    assert "\n  next: " in message


@pytest.mark.parametrize(
    "line",
    [
        "SERVER_PORT=1",
        "SERVER_PORT=65535",
        "GPUS=none",
        "GPUS=all",
        "LOG=detail",
        "LOG=json",
        "GATEWAY_RATE=5",
        "GATEWAY_MEMORY=1g",
        "WANDB_BASE_URL=https://wandb.example.org:8443/team",
        "WANDB_BASE_URL=http://wandb-backend:8970",
        "WANDB_BASE_URL=https://api.wandb.ai",
    ],
)
def test_a_good_setting_is_accepted(tmp_path: Path, line: str) -> None:
    write(tmp_path, line + "\n")
    name, value = line.split("=")
    assert Settings.load(tmp_path).get(name) == value


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("WANDB_PROJECT=a/b", "WANDB_PROJECT=a/b must be a name without any of"),
        ("WANDB_MODE=off", "WANDB_MODE=off is not online, offline, disabled, or empty"),
        ("WANDB_ENTITY=a/b", "WANDB_ENTITY=a/b must be a name without any of"),
        (f"WANDB_PROJECT={'p' * 129}", "must be text of at most 128"),
        (f"WANDB_TAGS=a,{'t' * 70}", "each must be text of at most 64"),
        ("WANDB_BASE_URL=wandb.example.org", "WANDB_BASE_URL=wandb.example.org is no address of a server"),
        ("WANDB_BASE_URL=https://h:port", "is no address of a server"),
        ("WANDB_BASE_URL=https://h/?x=1", "is no address of a server"),
        ("WANDB_BASE_URL=https://wandb.ai", "WANDB_BASE_URL=https://wandb.ai is not W&B's API"),
        ("WANDB_BASE_URL=http://api.wandb.ai", "is not W&B's API"),
        ("WANDB_TRANSMIT_SECONDS=abc", "WANDB_TRANSMIT_SECONDS=abc is no whole number above 0"),
        ("WANDB_TRANSMIT_SECONDS=0.5", "WANDB_TRANSMIT_SECONDS=0.5 is no whole number above 0"),
    ],
)
def test_what_w_and_b_would_refuse_is_refused_before_anything_starts(tmp_path: Path, line: str, said: str) -> None:
    write(tmp_path, line + "\n")
    with pytest.raises(ConsoleError, match=re.escape(said)):
        Settings.load(tmp_path)


def test_remembering_keeps_the_users_lines_as_they_are(tmp_path: Path) -> None:
    own = "# mine\nSERVER_PORT=9002\n\nLOG='json' \n"
    path = write(tmp_path, own)
    Settings.load(tmp_path).remember({"SITE_THREADS_DEFAULT": "2", "COMPOSE_FILE": "compose.yaml"})
    assert path.read_text(encoding="utf-8") == own + f"\n{MANAGED}\nCOMPOSE_FILE=compose.yaml\nSITE_THREADS_DEFAULT=2\n"


def test_remembering_again_replaces_the_managed_block_only(tmp_path: Path) -> None:
    path = write(tmp_path, "LOG=json\n")
    for files in ("compose.yaml:docker/gpu.yaml", "compose.yaml"):
        Settings.load(tmp_path).remember({"COMPOSE_FILE": files})
    text = path.read_text(encoding="utf-8")
    assert text == f"LOG=json\n\n{MANAGED}\nCOMPOSE_FILE=compose.yaml\n"


def test_remembering_the_same_does_not_touch_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "LOG=json\n")
    Settings.load(tmp_path).remember({"SITE_THREADS_DEFAULT": "2"})
    before = path.stat().st_mtime_ns, path.stat().st_ino
    Settings.load(tmp_path).remember({"SITE_THREADS_DEFAULT": "2"})
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_what_was_remembered_is_read_back(tmp_path: Path) -> None:
    Settings.load(tmp_path).remember({"COMPOSE_FILE": "compose.yaml:docker/client-stream.yaml"})
    assert read_env(tmp_path / ".env") == {"COMPOSE_FILE": "compose.yaml:docker/client-stream.yaml"}


def test_the_first_env_file_is_a_copy_of_the_example(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text("# every setting\n#LOG=plain\n", encoding="utf-8")
    Settings.load(tmp_path).remember({"SITE_THREADS_DEFAULT": "1"})
    assert (tmp_path / ".env").read_text(encoding="utf-8").startswith(f"# every setting\n#LOG=plain\n\n{MANAGED}\n")


def test_a_line_that_the_user_added_below_the_managed_block_is_kept(tmp_path: Path) -> None:
    settings = Settings(tmp_path, {})
    settings.remember({"COMPOSE_FILE": "compose.yaml"})
    env = tmp_path / ".env"
    env.write_text(env.read_text(encoding="utf-8") + "LOG=json\n", encoding="utf-8")
    settings.remember({"COMPOSE_FILE": "compose.yaml:docker/gpu.yaml"})
    assert read_env(env) == {"LOG": "json", "COMPOSE_FILE": "compose.yaml:docker/gpu.yaml"}
