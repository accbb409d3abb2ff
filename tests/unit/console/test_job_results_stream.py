"""What a container sends as a job's results is a whole archive of that job's files, within bounds, or an error."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import pytest

from multisite.console import results
from multisite.console.settings import ConsoleError
from tests.unit.console.host import LARGE, Host, is_gone, packed

WHOLE = packed(model=LARGE, last=b"x" * 600)
END = WHOLE.rstrip(b"\0")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(WHOLE[:512], id="after-a-header"),
        pytest.param(WHOLE[:700], id="in-a-header"),
        pytest.param(WHOLE[: len(LARGE)], id="in-a-file"),
        pytest.param(END, id="in-the-last-file"),
        pytest.param(END + bytes(-len(END) % 512), id="without-an-end"),
        pytest.param(END + bytes(-len(END) % 512 + 512), id="with-half-an-end"),
        pytest.param(END + bytes(-len(END) % 512) + b"x" * 2048, id="with-another-end"),
        pytest.param(bytes(10240), id="an-empty-archive"),
        pytest.param(b"no archive at all" * 100, id="no-archive"),
    ],
)
def test_an_archive_that_is_cut_off_is_an_error_and_no_short_result(host: Host, content: bytes) -> None:
    host.sends(content)
    with pytest.raises(ConsoleError, match=r"no whole archive(.|\n)*next: make results JOB=7"):
        host.bring()
    assert not host.place.exists()
    assert host.leftovers() == []


def test_a_whole_archive_of_a_tar_that_failed_is_an_error_with_what_it_said(host: Host) -> None:
    host.sends(packed(model=b"x"), "cat answer; echo 'tar: 7: file changed\033[2J as we read it' >&2; exit 1")
    with pytest.raises(ConsoleError, match=r"exit status 1\): tar: 7: file changed as we read it\n"):
        host.bring()
    assert not host.place.exists()


def test_errors_of_the_container_by_the_megabyte_hold_up_nothing(host: Host) -> None:
    host.sends(packed(model=b"x"), "head -c 3000000 /dev/zero | tr '\\0' e >&2; exec cat answer")
    host.bring()
    assert host.content() == {"model": b"x"}


def member(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A whole tar of job 7: a good file, and this one."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("7/good"))
        archive.addfile(entry)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        member("../outside"),
        member("7/../../../../outside"),
        member("/tmp/outside"),
        member("8/of-another-job"),
        member("7"),
        member("7/link", tarfile.SYMTYPE),
        member("7/hard", tarfile.LNKTYPE),
        member("7/pipe", tarfile.FIFOTYPE),
        member("7/\x1b[2Jname"),
        member("7/" + "d/" * 40 + "file"),
    ],
)
def test_a_member_that_leads_outside_ends_it_and_nothing_is_written(host: Host, content: bytes) -> None:
    host.sends(content)
    with pytest.raises(ConsoleError, match="nothing was written") as refused:
        host.bring()
    assert "\x1b" not in str(refused.value)
    assert not [path for path in host.home.rglob("*") if path.name in ("outside", "good", "of-another-job")]
    assert host.leftovers() == []


def test_more_files_than_the_bound_are_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_MEMBERS", 3)
    host.sends(packed(a=b"", b=b""))
    host.bring()
    host.sends(packed(a=b"", b=b"", c=b""))
    with pytest.raises(ConsoleError, match="more than 3 files and folders"):
        host.bring()
    assert sorted(host.content()) == ["a", "b"]


def test_a_file_that_the_disk_has_no_room_for_is_refused_before_it_comes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(host.home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=results.FREE_BYTES + 1_000_000))
    host.sends(packed(small=b"x", large=LARGE))
    with pytest.raises(ConsoleError, match=r"7/large has 2 MB.*has room for 1 MB(.|\n)*next: free disk space"):
        host.bring()
    assert not host.place.exists()


def test_a_container_that_falls_silent_is_an_error_and_nothing_is_left(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SILENT_SECONDS", 0.3)
    host.stops_after(packed(model=LARGE), len(LARGE) // 2)
    with pytest.raises(ConsoleError, match=r"sent nothing for 0 s, after 1 MB(.|\n)*next: make status"):
        host.bring()
    assert not host.place.exists()
    assert host.leftovers() == []
    assert is_gone(host.calls()[-1])


def test_a_stream_that_ends_and_a_command_that_does_not_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "END_SECONDS", 0.3)
    os.mkfifo(host.home / "go")
    host.sends(packed(model=b"x"), "cat answer; exec >&- 2>&-; read _ <go")
    with pytest.raises(ConsoleError, match="did not end"):
        host.bring()
    assert not host.place.exists()
