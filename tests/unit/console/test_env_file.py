"""`.env`, as Compose reads it. tests/e2e/test_06_errors_and_down.py compares with Compose itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from multisite.console.env_file import BadLine, read_assignments

READ = {  # a line's value -> what Compose makes of it
    "8003 # ours": "8003",
    "x#y": "x#y",
    "#x": "#x",
    " # y": "# y",
    "'x # y' # c": "x # y",
    '"x # y"  # c': "x # y",
    'x "y" z': 'x "y" z',
    "C:\\new\\table": "C:\\new\\table",
    "  spaced  ": "spaced",
    "b\t# tab": "b\t# tab",
    "'a\\nb'": "a\\nb",
    "'$HOME'": "$HOME",
    "a=b=c": "a=b=c",
    "x'y": "x'y",
    '"é ü"': "é ü",
    "x  #  y # z": "x",
    "": "",
    "''": "",
    '"x" ': "x",
    "http://h/#frag": "http://h/#frag",
    "!x&y;z": "!x&y;z",
}
REFUSED = ["'open", '"open', "'it''s'", '"a b"c', "$HOME", '"$HOME"', '"a\\nb"', "a$", "'abc\\'"]


def written(folder: Path, text: str) -> Path:
    path = folder / ".env"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("value", "read"), READ.items())
def test_a_value_is_what_compose_makes_of_it(tmp_path: Path, value: str, read: str) -> None:
    assert read_assignments(written(tmp_path, f"# first\nA={value}\n")) == {"A": (read, 2)}


@pytest.mark.parametrize("value", REFUSED)
def test_a_value_that_compose_may_read_in_another_way_is_refused_by_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(BadLine) as bad:
        read_assignments(written(tmp_path, f"\nA={value}\n"))
    assert bad.value.number == 2
    assert value not in str(bad.value) or len(value) < 3  # it may be a key


def test_the_last_assignment_of_a_name_counts(tmp_path: Path) -> None:
    assert read_assignments(written(tmp_path, "A=1\nA=2\n")) == {"A": ("2", 2)}


def test_a_missing_file_has_no_assignments(tmp_path: Path) -> None:
    assert read_assignments(tmp_path / ".env") == {}
