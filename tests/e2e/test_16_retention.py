"""What the server and the sites keep of jobs, and for how long (JOBS_KEEP_DAYS)."""

from __future__ import annotations

from tests.e2e.stack import Stack, job_id_in
from tests.e2e.test_03_jobs_end import jobs

OLD = "find jobs/{job} {job} -exec touch -d '40 days ago' {{}} + 2>/dev/null; true"


def test_a_job_that_ended_long_ago_and_is_delivered_goes_and_the_newer_one_stays(stack: Stack) -> None:
    old, new = (job_id_in(stack.submit(ROUNDS="1").text) for _ in range(2))
    for name in ("server", "site-1"):
        assert stack.execute(name, "sh", "-c", OLD.format(job=old)).code == 0
    assert stack.compose("restart", "server", "site-1").code == 0
    stack.wait_for(lambda: stack.execute("server", "test", "-e", f"jobs/{old}").code != 0, "the old job gone from the server")
    stack.wait_for(lambda: stack.execute("site-1", "test", "-e", old).code != 0, "the old job's folder gone from site-1")
    stack.wait_for(lambda: new in jobs(stack), "the server answers")
    assert old not in jobs(stack)
    assert stack.execute("site-1", "test", "-e", new).code == 0
    assert stack.execute("site-2", "test", "-e", old).code == 0, "nothing is old there"
    assert "disk: " in stack.make("status").text
