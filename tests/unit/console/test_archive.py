"""What a container sends is unpacked into its folder, and nothing in it reaches any other place."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from multisite.console.archive import unpack
from multisite.console.settings import ConsoleError


def packed(*entries: tuple[str, bytes, str], mode: int = 0o644) -> bytes:
    """A tar of (kind, content or target, name)."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for kind, inside, name in entries:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid = kind.encode("latin-1"), mode, 4711
            if kind in ("1", "2"):
                member.linkname = inside.decode()
            member.size = len(inside) if kind == "0" else 0
            archive.addfile(member, io.BytesIO(inside) if kind == "0" else None)
    return content.getvalue()


FILE, HARD_LINK, LINK, DEVICE, FOLDER, PIPE = "0", "1", "2", "3", "5", "6"


def test_files_and_folders_are_unpacked_and_what_was_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "rounds.csv").write_bytes(b"old, and longer than the new one")
    unpack(
        packed((FOLDER, b"", "7"), (FILE, b"new", "7/rounds.csv"), (FILE, b"x", "7/models/best.safetensors")), tmp_path, "results"
    )
    assert (tmp_path / "7" / "rounds.csv").read_bytes() == b"new"
    assert (tmp_path / "7" / "models" / "best.safetensors").read_bytes() == b"x"


@pytest.mark.parametrize(("sent", "kept"), [(0o600, 0o600), (0o755, 0o755), (0o4777, 0o755), (0o000, 0o600), (0o666, 0o644)])
def test_a_key_stays_its_owners_and_nobody_else_may_write(tmp_path: Path, sent: int, kept: int) -> None:
    unpack(packed((FILE, b"x", "client.key"), mode=sent), tmp_path, "kit")
    assert stat.S_IMODE((tmp_path / "client.key").stat().st_mode) == kept


@pytest.mark.parametrize(
    "entry",
    [
        (FILE, b"x", "../outside"),
        (FILE, b"x", "7/../../outside"),
        (FILE, b"x", "/tmp/outside"),
        (LINK, b"/etc/passwd", "7/link"),
        (LINK, b"other", "7/link"),
        (HARD_LINK, b"7/good", "7/hard"),
        (DEVICE, b"", "7/device"),
        (PIPE, b"", "7/pipe"),
        (FILE, b"x", "7/\x1b[2Jname"),
        (FILE, b"x", "7/a\nname"),
    ],
)
def test_whatever_is_no_file_or_folder_below_is_refused_before_anything_is_written(
    tmp_path: Path, entry: tuple[str, bytes, str]
) -> None:
    target = tmp_path / "results"
    target.mkdir()
    with pytest.raises(ConsoleError, match=r"results: the container sent .*nothing was written") as refused:
        unpack(packed((FILE, b"x", "7/good"), entry), target, "results")
    assert "\x1b" not in str(refused.value)
    assert list(tmp_path.rglob("*")) == [target]


def test_a_link_that_is_there_already_leads_nothing_out_of_the_folder(tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    (target / "7").symlink_to(elsewhere)
    with pytest.raises(ConsoleError, match="nothing was written"):
        unpack(packed((FILE, b"x", "7/file")), target, "results")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, packed((FILE, b"x" * 5000, "a"))[:2000]])
def test_half_an_archive_is_an_error_with_the_next_step(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConsoleError, match=r"no whole archive(.|\n)*next: run it again"):
        unpack(content, tmp_path, "results")


def test_a_file_that_stands_where_a_folder_has_to_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "7").write_bytes(b"")
    with pytest.raises(ConsoleError, match="can't be written"):
        unpack(packed((FILE, b"x", "7/file")), tmp_path, "results")
