"""What a process keeps of the memory that it has freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")

STEPS, TENSORS, MEGABYTES = 20, 10, 12
PAGES = TENSORS * MEGABYTES * 256  # of a step
STEP = f"""
import resource, sys, threading
import numpy as np
from multisite.federation import memory

def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def steps():
    for number in range({STEPS}):
        activations = [np.ones({MEGABYTES} << 18, np.float32) for _ in range({TENSORS})]
        del activations
        if number == 2: counted.append(faults())
    counted.append(faults())

counted = []
if sys.argv[1] == "kept": memory.keep_freed(memory.KEPT_FOR_TRAINING)
thread = threading.Thread(target=steps)
thread.start()
thread.join()
print(counted[1] - counted[0])
"""


def faults(how: str) -> int:
    """Page faults of the steps after the third, in a thread of a new process."""
    done = subprocess.run([sys.executable, "-c", STEP, how], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_what_a_training_step_frees_stays_with_the_process_for_the_next_one() -> None:
    assert faults("kept") < PAGES / 2
    assert faults("given back") > PAGES  # or the call is needed no more


MESSAGES = """
import pathlib, sys, threading, time
from multisite.federation import memory

memory.BUSY_SECONDS = memory.IDLE_SECONDS = 0.05
memory.keep_freed(memory.KEPT_FOR_MESSAGES)

def resident():
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20

class Message:
    def __init__(self):
        self.itself, self.chunk = self, bytearray(1 << 20)

working = threading.Event()
working.set()
if sys.argv[1] == 'gives':
    memory.give_back_while(working.is_set)
messages = [(Message(), bytearray(100)) for _ in range(100)]
full = resident()
last = [small for _, small in messages]  # lie between the chunks
del messages
deadline = time.monotonic() + 10
while resident() > full - 80 and time.monotonic() < deadline and sys.argv[1] == 'gives':
    time.sleep(0.02)
print(full - resident())
"""


def freed(how: str) -> float:
    """MiB that a process gave back of 100 in messages that point to themselves, below what is still in use."""
    done = subprocess.run([sys.executable, "-c", MESSAGES, how], capture_output=True, text=True, timeout=60, check=True)
    return float(done.stdout)


def test_a_busy_server_gives_back_what_messages_leave_behind() -> None:
    assert freed("gives") > 80


def test_nothing_else_would() -> None:
    assert freed("keeps") < 20
