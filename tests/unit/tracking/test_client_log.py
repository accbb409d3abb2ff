"""What W&B's client says of its own requests. The lines are wandb 0.31.0's."""

from __future__ import annotations

from pathlib import Path

import pytest

from multisite.tracking import client_log
from multisite.tracking.client_log import ClientLog

TAKEN = '{"level":"INFO","msg":"filestream: request sent","status":"200 OK"}\n'
AGAIN = '{"level":"INFO","msg":"api: retrying HTTP error","status":429,"url":"http://h/files/team/fl/r1/file_stream","body":"{}"}\n'
REFUSED = '{"level":"ERROR","msg":"api: HTTP error","status":413,"method":"POST","url":"http://h/files/team/fl/r1/file_stream"}\n'
GIVEN_UP = '{"level":"ERROR+4","msg":"filestream: fatal error: filestream: error making HTTP request"}\n'
QUERY = '{"level":"ERROR","msg":"api: HTTP error","status":400,"method":"POST","url":"http://h/graphql"}\n'


@pytest.mark.parametrize(
    ("lines", "status", "final"),
    [
        ("", 0, False),
        (TAKEN, 0, False),
        (AGAIN, 429, False),
        (AGAIN + TAKEN, 0, False),
        (AGAIN + GIVEN_UP, 429, True),
        (TAKEN + REFUSED + GIVEN_UP, 413, True),
        (QUERY, 0, False),
        (TAKEN + '{"level":"ERROR","msg":"filestream: json decode error"}\n', 0, False),  # of an answer; the client goes on
        ("no JSON\n[]\n7\n{}\n" + AGAIN, 429, False),
    ],
)
def test_the_last_answer_to_the_stream_of_rows_is_known(tmp_path: Path, lines: str, status: int, final: bool) -> None:
    path = tmp_path / "debug-internal.log"
    path.write_text(lines, encoding="utf-8")
    log = ClientLog(path)
    log.read()
    assert (log.status, log.final, log.limited) == (status, final, status == 429 and not final)


def test_a_rate_limit_whose_end_is_in_no_line_is_not_believed_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without rows that was refused is sent again by itself, and its success is not logged."""
    path = tmp_path / "debug-internal.log"
    path.write_text(AGAIN, encoding="utf-8")
    log = ClientLog(path)
    log.read()
    assert log.limited
    monkeypatch.setattr(client_log, "LIMITED_SECONDS", 0.0)
    assert not log.limited


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "debug-internal.log"
    log = ClientLog(path)
    log.read()
    path.write_text(AGAIN + REFUSED[:40], encoding="utf-8")
    log.read()
    assert log.limited
    path.write_text(AGAIN + REFUSED, encoding="utf-8")
    log.read()
    assert (log.status, log.final) == (413, True)
