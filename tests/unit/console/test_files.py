"""Files that can't be read or written: whose they are, and what cures it."""

from __future__ import annotations

import errno
import getpass
import os
from pathlib import Path

import pytest

from multisite.console import files


def error_of(path: Path, text: str = "") -> OSError:
    with pytest.raises(PermissionError) as refused:
        path.write_text(text, encoding="utf-8")
    return refused.value


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_named_with_its_owner_and_the_command_that_gives_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "home here" / "secrets"
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    error = error_of(folder / "key")
    folder.chmod(0o700)
    assert files.problem(error) == f"{folder}/key: Permission denied ({folder} belongs to {folder.owner()})"
    assert files.next_step(error, folder.parent).startswith(f"sudo chown -R {getpass.getuser()} '{folder.parent}' ")
    assert files.next_step(error, tmp_path / "elsewhere").startswith(f"sudo chown -R {getpass.getuser()} '{folder}' ")


def test_a_full_disk_is_cured_by_space(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a"))
    assert files.problem(error) == f"{tmp_path}/a: No space left on device"
    assert files.next_step(error, tmp_path) == "free disk space"


def test_an_error_without_a_file_is_said_all_the_same() -> None:
    assert "Resource temporarily unavailable" in files.problem(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
