"""Whoever holds a submitter's certificate can have sites train the image's networks. They can't run a command, a script, or read a file."""

from __future__ import annotations

import pytest

from tests.e2e.drill.job import status_of, submit_files
from tests.e2e.hostile.job import CLIENT_API, CODE, EXECUTORS, EXTERNAL, MARK, NUMBERS, OURS, files
from tests.e2e.stack import Stack

CONTAINERS = ("server", "site-1", "site-2")


def outcome(stack: Stack, job: dict[str, str]) -> tuple[str, str]:
    """A job's last status, and what `make results` says of it."""
    job_id = submit_files(stack, job)
    stack.wait_for(lambda: status_of(stack, job_id).startswith("FINISHED"), f"the end of job {job_id}", 120)
    return status_of(stack, job_id), stack.make("results", JOB=job_id).text


def nothing_ran(stack: Stack) -> bool:
    return all(stack.execute(name, "test", "-e", MARK).code for name in CONTAINERS)


@pytest.mark.parametrize("what", list(EXECUTORS))
def test_a_job_that_names_what_a_site_should_run_must_be_refused(stack: Stack, what: str) -> None:
    status, text = outcome(stack, files("hostile", EXECUTORS[what]))
    assert status.startswith("FINISHED")
    assert status != "FINISHED:COMPLETED"
    assert nothing_ran(stack)
    assert "site-" in text[text.index("did not complete") :]
    assert stack.submit(ROUNDS="1").code == 0  # nothing is broken for the next one


def test_a_job_that_names_what_the_server_should_run_must_be_refused(stack: Stack) -> None:
    component = {"id": "x", "path": CLIENT_API, "args": EXTERNAL}
    status, text = outcome(stack, files("hostile", (OURS, NUMBERS), component))
    assert status != "FINISHED:COMPLETED"
    assert nothing_ran(stack)
    assert "server" in text[text.index("did not complete") :]


def test_the_marks_code_does_leave_a_mark(stack: Stack) -> None:
    """Or the tests above would pass whatever ran."""
    assert stack.execute("site-1", "python", "-c", CODE).code == 0
    assert not nothing_ran(stack)
    assert stack.execute("site-1", "rm", MARK).code == 0
