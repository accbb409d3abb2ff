"""Jobs that don't complete end too: aborted, failed, stopped under way. Nothing is left RUNNING."""

from __future__ import annotations

import json
import subprocess

from tests.e2e.stack import KEY, Stack

OUTPUT_SECONDS = 120
PATTERN = f"{KEY[:-1]}[{KEY[-1]}]"


def jobs(stack: Stack) -> dict[str, str]:
    """Job id -> status, by the admin."""
    lines = stack.execute("admin", "python", "-m", "multisite.admin.command_line", "jobs").text.splitlines()
    listed = next(json.loads(line) for line in lines if line.startswith('{"event": "jobs"'))
    return {job["job_id"]: job["status"] for job in listed["jobs"]}


def start_long_job(stack: Stack) -> tuple[subprocess.Popen[str], str]:
    """A job that would run for an hour, once it has reported its first round."""
    process = stack.start(ROUNDS="1000")
    assert process.stdout is not None
    job_id, lines = "", []
    for line in process.stdout:  # bounded: make ends with an error when the job does not start
        lines.append(line)
        if " submitted" in line:
            job_id = line.split()[1]
        if "round 1/1000" in line:
            return process, job_id
    raise AssertionError("the job did not start:\n" + "".join(lines))


def test_an_aborted_job_ends_as_aborted_and_submit_fails(stack: Stack) -> None:
    process, job_id = start_long_job(stack)
    environments = stack.execute(
        "server", "sh", "-c", f"grep -ls '{PATTERN}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null"
    )
    assert environments.text.strip() == "", "the key is in a process's environment while a job runs"
    done = stack.make("abort")
    assert done.code == 0, done.text
    assert f"job {job_id} is FINISHED:ABORTED" in done.text
    output, _ = process.communicate(timeout=OUTPUT_SECONDS)
    assert process.returncode != 0
    assert "did not complete: FINISHED:ABORTED" in output


def test_moving_the_key_never_kills_a_running_job_unasked(stack: Stack) -> None:
    process, job_id = start_long_job(stack)
    done = stack.submit("submit-client-stream")
    assert done.code != 0
    assert f"job {job_id} is running" in done.text
    assert "FORCE=yes" in done.text
    assert jobs(stack)[job_id] == "RUNNING"
    assert stack.make("abort").code == 0
    process.communicate(timeout=OUTPUT_SECONDS)


def test_an_interrupted_submit_leaves_the_job_running(stack: Stack) -> None:
    process, job_id = start_long_job(stack)
    console = subprocess.run(
        ["pgrep", "-g", str(process.pid), "-f", "multisite.console"], capture_output=True, text=True, check=False
    )
    subprocess.run(["kill", "-INT", *console.stdout.split()], check=True)
    output, _ = process.communicate(timeout=OUTPUT_SECONDS)
    assert f"job {job_id} goes on" in output
    assert jobs(stack)[job_id] == "RUNNING"
    assert stack.make("abort", JOB=job_id).code == 0


def test_a_job_that_fails_on_a_site_says_which_site_and_why(stack: Stack) -> None:
    arguments = ["submit", "--rounds", "1", "--alpha", "0.77", "--dataset", "cifar10"]  # no such shard was prepared
    done = stack.execute("admin", "python", "-m", "multisite.admin.command_line", *arguments)
    assert done.code == 1
    finished = next(json.loads(line) for line in done.text.splitlines() if line.startswith('{"event": "finished"'))
    assert finished["status"] != "FINISHED:COMPLETED"
    assert "ShardError" in json.dumps(finished["errors"])
    shown = stack.make("results", JOB=finished["job_id"])
    assert shown.code != 0
    assert "site-" in shown.text
    assert "no shard of partition dirichlet0.77-seed0" in shown.text


def test_an_option_out_of_range_is_refused_before_anything_runs(stack: Stack) -> None:
    before = jobs(stack)
    for name, value in (("ROUNDS", "0"), ("ALPHA", "-1"), ("NETWORK", "resnet"), ("LR", "fast")):
        done = stack.make("submit", **{name: value})
        assert done.code != 0
        assert name.lower() in done.text.lower()
        assert value in done.text
    assert jobs(stack) == before


def test_stop_under_way_ends_cleanly_within_ten_seconds_and_leaves_no_job_running(stack: Stack) -> None:
    process, job_id = start_long_job(stack)
    containers = stack.containers()
    done = stack.compose("stop")
    assert done.code == 0
    process.communicate(timeout=OUTPUT_SECONDS)
    for service in ("server", "site-1", "site-2"):
        state = stack.inspect(containers[service])["State"]
        assert state["ExitCode"] == 0, (service, state)
    log = stack.compose("logs", "--since", f"{int(done.seconds) + 5}s").text
    assert "did not end within" not in log
    assert done.seconds < 10  # the sites' stop and then the server's
    assert stack.make("up").code == 0
    assert jobs(stack)[job_id].startswith("FINISHED")


def test_a_killed_server_leaves_no_job_running(stack: Stack) -> None:
    process, job_id = start_long_job(stack)
    stack.compose("kill", "server")
    assert stack.make("up").code == 0
    process.communicate(timeout=OUTPUT_SECONDS)
    assert jobs(stack)[job_id].startswith("FINISHED")
    assert stack.submit(ROUNDS="1").code == 0
