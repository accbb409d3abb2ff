"""A job's process: the memory of a training step, and NVFlare's command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from multisite.federation import job_process

STEPS, TENSORS, MEGABYTES = 20, 10, 12
PAGES = TENSORS * MEGABYTES * 256  # of a step
STEP = f"""
import resource, sys, threading
import numpy as np
from multisite.federation import job_process

def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def steps():
    for number in range({STEPS}):
        activations = [np.ones({MEGABYTES} << 18, np.float32) for _ in range({TENSORS})]
        del activations
        if number == 2: counted.append(faults())
    counted.append(faults())

counted = []
if sys.argv[1] == "kept": job_process.keep_freed_memory(job_process.KEPT_FOR_TRAINING)
thread = threading.Thread(target=steps)
thread.start()
thread.join()
print(counted[1] - counted[0])
"""


def faults(how: str) -> int:
    """Page faults of the steps after the third, in a thread of a new process."""
    done = subprocess.run([sys.executable, "-c", STEP, how], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_a_training_step_frees_stays_with_the_process_for_the_next_one() -> None:
    assert faults("kept") < PAGES / 2
    assert faults("given back") > PAGES  # or the call is needed no more


def test_nvflares_command_starts_this_packages_process_with_nvflares_arguments() -> None:
    command = "python -m nvflare.private.fed.app.client.worker_process -m /workspace -n job"
    assert job_process._ours(command, "site") == "python -m multisite.federation.job_process site -m /workspace -n job"
