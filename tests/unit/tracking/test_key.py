"""The W&B key: what is accepted, and that no message ever holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from multisite.tracking.key import KeyProblem, check_form, read_key

GOOD = "a1B2-_" * 7  # 42 characters
BAD = "5ecret!with/odd characters" * 2


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.mark.parametrize("text", [GOOD, f"{GOOD}\n", f"  {GOOD}\t\r\n", f"\n\n{GOOD}"])
def test_white_space_around_the_key_is_dropped(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    assert read_key(path) == GOOD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_MODE", "offline"),
        ("WANDB_MODE", "disabled"),
        ("WANDB_MODE", "dryrun"),
        ("WANDB_DISABLED", "true"),
        ("WANDB_DISABLED", "1"),
    ],
)
def test_where_w_and_b_is_switched_off_no_key_is_used_and_the_setting_is_named(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text(GOOD, encoding="utf-8")
    monkeypatch.setenv(name, value)
    with pytest.raises(KeyProblem, match=f"^{name}={value}: nothing is sent, everything is kept; next: .*make sync"):
        read_key(path)


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "online"), ("WANDB_MODE", ""), ("WANDB_DISABLED", "false")])
def test_where_w_and_b_is_not_switched_off_the_key_is_used(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text(GOOD, encoding="utf-8")
    monkeypatch.setenv(name, value)
    assert read_key(path) == GOOD


@pytest.mark.parametrize("key", ["k" * 40, "k" * 200, GOOD])
def test_a_key_of_forty_characters_or_more_is_accepted(key: str) -> None:
    assert check_form(key) == key


@pytest.mark.parametrize("key", ["k" * 39, BAD, GOOD + " " + GOOD, "\u00e9" * 40, "k" * 39 + "\n" + "k" * 39])
def test_a_malformed_key_is_refused_with_its_length_and_without_the_key(key: str) -> None:
    with pytest.raises(KeyProblem, match=rf"malformed API key \({len(key)} characters") as refused:
        check_form(key)
    assert key not in str(refused.value)
    assert key[:8] not in str(refused.value)


@pytest.mark.parametrize("text", ["", "\n", " \t\n "])
def test_an_empty_key_file_is_no_key(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KeyProblem, match=r"^no API key$"):
        read_key(path)


def test_a_missing_key_file_without_a_variable_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match=r"^no API key$"):
        read_key(tmp_path / "absent")


def test_without_a_key_file_the_variable_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", f" {GOOD}\n")
    assert read_key(tmp_path / "absent") == GOOD


def test_an_empty_key_file_comes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", GOOD)
    path = tmp_path / "key"
    path.write_text("", encoding="utf-8")
    with pytest.raises(KeyProblem, match="no API key"):
        read_key(path)


def test_a_key_file_that_is_no_text_is_a_problem_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff\xfe" + GOOD.encode())
    with pytest.raises(KeyProblem, match="UnicodeDecodeError") as refused:
        read_key(path)
    assert GOOD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_a_folder_in_the_key_files_place_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match="can't be read"):
        read_key(tmp_path)
