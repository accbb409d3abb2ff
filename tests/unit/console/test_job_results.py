"""A job's results come to this host as one whole folder: with two at once, and beside what a person has put there."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from multisite.console import results
from multisite.console.settings import ConsoleError
from multisite.locks import held
from tests.unit.console.host import LARGE, SECONDS, Host, packed, until


def test_the_folder_is_there_with_every_file_and_nothing_else_is_left(host: Host) -> None:
    host.sends(packed(models__best=LARGE, empty=b"", **{"rounds.csv": b"x"}))
    assert host.bring() == host.place
    assert host.content() == {"models/best": LARGE, "empty": b"", "rounds.csv": b"x"}
    assert host.leftovers() == []


def test_a_real_tar_is_read(host: Host) -> None:
    folder = host.home / "admin" / "7" / "job" / ("long" * 40)
    folder.mkdir(parents=True)
    (folder / "meta.json").write_bytes(b"{}")
    host.docker("exec tar -C admin -cf - -- 7")
    host.bring()
    assert host.content() == {f"job/{folder.name}/meta.json": b"{}"}


def test_two_followers_of_one_job_leave_one_whole_folder(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.stops_after(packed(model=LARGE), len(LARGE) // 2)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(host.bring)
        until(host.has_begun)
        second = pool.submit(host.bring)
        until(lambda: "another console brings them" in capsys.readouterr().out)
        assert not host.place.exists()
        (host.home / "go").write_text("\n", encoding="utf-8")
        assert [first.result(SECONDS), second.result(SECONDS)] == [host.place] * 2
    assert len(host.calls()) == 1, "the second one takes what is there"
    assert host.content() == {"model": LARGE}


@pytest.mark.parametrize("before", [{}, {"old": b"whole"}])
def test_whoever_waited_for_one_that_failed_brings_them_itself(
    host: Host, capsys: pytest.CaptureFixture[str], before: dict[str, bytes]
) -> None:
    if before:
        host.sends(packed(**before))
        host.bring()
    host.stops_after(packed(model=LARGE)[: len(LARGE)], len(LARGE) // 2)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(host.bring)
        until(host.has_begun)
        second = pool.submit(host.bring)
        until(lambda: "another console brings them" in capsys.readouterr().out)
        host.sends(packed(model=b"whole"))
        (host.home / "go").write_text("\n", encoding="utf-8")
        assert isinstance(first.exception(SECONDS), ConsoleError)
        assert second.result(SECONDS) == host.place
    assert host.content() == {**before, "model": b"whole"}


def test_another_console_that_does_not_end_is_not_waited_for_for_ever(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "WAIT_SECONDS", 0.1)
    with (
        held(host.home / "results" / results.LOCKS / "7", 0),
        pytest.raises(ConsoleError, match=r"another(.|\n)*next: wait for it"),
    ):
        host.bring()


def test_results_that_are_asked_for_again_are_brought_again(host: Host) -> None:
    host.sends(packed(a=b"1", b=b"1"))
    host.bring()
    (host.place / "a").unlink()
    host.sends(packed(a=b"2", b=b"2"))
    host.bring()
    assert host.content() == {"a": b"2", "b": b"2"}
    assert len(host.calls()) == 2
    assert host.leftovers() == []


def test_files_that_a_person_added_survive(host: Host) -> None:
    host.sends(packed(models__best=b"old"))
    host.bring()
    (host.place / "notes.txt").write_bytes(b"notes")
    (host.place / "models" / "mine").write_bytes(b"mine")
    (host.place / "plots" / "deep").mkdir(parents=True)
    (host.place / "plots" / "deep" / "a.svg").write_bytes(b"plot")
    (host.place / "link").symlink_to("notes.txt")
    host.sends(packed(models__best=b"new"))
    host.bring()
    assert host.content() == {
        "models/best": b"new", "notes.txt": b"notes", "models/mine": b"mine", "plots/deep/a.svg": b"plot", "link": b"notes",
    }  # fmt: skip
    assert (host.place / "link").is_symlink()
    assert host.leftovers() == []


@pytest.mark.parametrize("kind", ["link", "folder", "file"])
def test_what_a_person_put_where_the_job_has_something_else_is_named_and_stays(host: Host, kind: str) -> None:
    host.place.mkdir(parents=True)
    mine = host.place / ("models" if kind == "file" else "rounds.csv")
    if kind == "link":
        mine.symlink_to("/etc/passwd")
    elif kind == "folder":
        mine.mkdir()
    else:
        mine.write_bytes(b"mine")
    host.sends(packed(models__best=b"x", **{"rounds.csv": b"x"}))
    with pytest.raises(ConsoleError, match=rf"{mine.name} stands where(.|\n)*next: move it away"):
        host.bring()
    assert [mine] == list(host.place.iterdir())
    assert host.leftovers() == []


def test_a_link_in_the_folders_place_leads_nothing_elsewhere(host: Host) -> None:
    (host.home / "elsewhere").mkdir()
    host.place.parent.mkdir()
    host.place.symlink_to(host.home / "elsewhere")
    host.sends(packed(a=b"x"))
    with pytest.raises(ConsoleError, match="is no folder"):
        host.bring()
    assert list((host.home / "elsewhere").iterdir()) == []
    assert host.calls() == []


@pytest.mark.parametrize("job_id", ["", "..", ".locks", "7/8", "/7", "-x", "7\x1b[2J"])
def test_what_is_no_jobs_id_is_refused(host: Host, job_id: str) -> None:
    with pytest.raises(ConsoleError, match=r"no job's id(.|\n)*next: make status"):
        results.bring(host.deployment, job_id)


def test_a_large_file_is_written_as_it_comes_and_never_held_in_memory(host: Host) -> None:
    size = 96_000_000
    (host.home / "admin" / "7").mkdir(parents=True)
    with open(host.home / "admin" / "7" / "model", "wb") as file:
        file.truncate(size)
    host.docker("exec tar -C admin -cf - 7")
    tracemalloc.start()
    try:
        host.bring()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (host.place / "model").stat().st_size == size
    assert peak < 8_000_000


@pytest.mark.parametrize(("terminal", "said"), [(True, True), (False, False)])
def test_a_terminal_sees_how_much_has_come_and_a_log_less_often(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, said: bool
) -> None:
    monkeypatch.setattr("multisite.console.stream.SHOW_SECONDS", 0.0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    host.sends(packed(model=LARGE))
    host.bring()
    assert ("results: 2 MB" in capsys.readouterr().out.splitlines()) is said
