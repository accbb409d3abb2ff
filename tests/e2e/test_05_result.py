"""The default job, on real CIFAR-10."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.drill.job import status_of, submit_files
from tests.e2e.stack import Stack

ACCURACY = 0.75  # of the default job, on two sites


@pytest.mark.real_cifar10
def test_the_default_job_reaches_75_percent(stack: Stack) -> None:
    done = stack.make("submit", DATA_LIMIT="")
    assert done.code == 0, done.text
    match = re.search(r"final global model: accuracy (0\.\d+) on cifar10", done.text)
    assert match, done.text
    assert float(match[1]) >= ACCURACY


EXPORT = """
import json, pathlib, subprocess, sys
subprocess.run([sys.executable, "/opt/multisite/jobs/wandb_job.py", "--export", "/tmp/job", *sys.argv[1:]], check=True, capture_output=True)
(folder,) = pathlib.Path("/tmp/job").iterdir()
print(json.dumps({str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}))
"""


def test_a_job_that_was_exported_runs_on_the_deployment_and_reaches_what_make_submit_reaches(stack: Stack) -> None:
    options = {"rounds": "2", "batch_size": "64", "seed": "0"}
    submitted = stack.submit(**{name.upper(): value for name, value in options.items()})  # first: it prepares the shards
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    written = stack.execute("site-1", "python", "-c", EXPORT, *arguments)
    assert written.code == 0, written.text
    job_id = submit_files(stack, json.loads(written.text))
    stack.wait_for(lambda: status_of(stack, job_id).startswith("FINISHED"), f"the end of job {job_id}", 120)
    exported = stack.make("results", JOB=job_id)
    assert exported.code == 0, exported.text
    assert final_accuracy(exported.text) == final_accuracy(submitted.text)


def final_accuracy(text: str) -> str:
    found = re.search(r"final global model: accuracy (0\.\d+)", text)
    assert found, text
    return found[1]


def test_synthetic_data_is_announced_in_capitals_wherever_a_result_is_shown(stack: Stack) -> None:
    done = stack.submit(DATASET="synthetic", SEED="5", ROUNDS="1")
    assert done.code == 0, done.text
    assert "SYNTHETIC DATA STANDS IN FOR CIFAR-10" in done.text
    assert re.search(r"final global model: accuracy 0\.\d+ on SYNTHETIC DATA, NOT CIFAR-10", done.text)
    newest = max(stack.backend().runs(), key=lambda run: str(run["history_posts"][-1]["time"] if run["history_posts"] else ""))
    assert newest["config"]["dataset"]["value"] == "SYNTHETIC"


def test_containers_are_healthy_when_they_have_been_up_for_a_while(stack: Stack) -> None:
    def healthy() -> bool:
        return all(
            stack.inspect(stack.containers()[name])["State"]["Health"]["Status"] == "healthy"
            for name in ("server", "site-1", "site-2")
        )

    stack.wait_for(healthy, "server and sites healthy")
