"""The fork server: what it starts is what a fresh process would be, and nothing outlives the node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 30.0
NODE = """
import json, os, sys, threading, time
from pathlib import Path
from multisite.federation import fork_server

def child():
    what = sys.argv[1]
    if what == "tell":
        import brought
        print(json.dumps({"argv": sys.argv, "environment": dict(os.environ), "name": Path("/proc/self/comm").read_text().strip(),
                          "group": os.getpgrp() == os.getpid(), "brought": brought.VALUE, "shared": "sched" in sys.modules}), flush=True)
        return 7
    if what == "fail":
        raise RuntimeError("no such job")
    if what == "exit":
        sys.exit(3)
    os.fork()
    os.write(1, f"{os.getpid()} {os.getppid()}\\n".encode())  # whole or not at all: a test may kill it here
    while True: time.sleep(60)

server = fork_server.start(["sched"], child)
def spawn(*arguments, environment=None): return server.spawn(["job", *arguments], {**os.environ, **(environment or {})}, "job-site")
"""


def node(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a node."""
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", NODE + script], capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Its last line."""
    assert not done.returncode, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_child_has_its_own_arguments_environment_name_group_and_imports(tmp_path: Path) -> None:
    (tmp_path / "brought.py").write_text("VALUE = 5", encoding="utf-8")
    done = node(f"""
environment = {{"TOKEN": "secret", "PYTHONPATH": os.environ["PYTHONPATH"] + ":{tmp_path}"}}
process = spawn("tell", environment=environment)
assert process.wait() == process.poll() == 7
""")
    child = told(done)
    assert (child["argv"], child["name"], child["group"]) == (["job", "tell"], "job-site", True)
    assert (child["environment"]["TOKEN"], child["brought"], child["shared"]) == ("secret", 5, True)


def test_how_a_child_ended_is_known_whether_it_failed_exited_or_was_killed() -> None:
    done = node("""
failed, left, killed = spawn("fail"), spawn("exit"), spawn("stay")
assert killed.poll() is None
killed.terminate()
print(json.dumps({"codes": [failed.wait(), left.wait(), killed.wait()]}))
""")
    assert told(done) == {"codes": [1, 3, -int(signal.SIGKILL)]}
    assert "RuntimeError: no such job" in done.stderr


def test_many_children_at_once_end_each_with_its_own_status() -> None:
    done = node("""
processes = [spawn("fail" if number % 2 else "exit") for number in range(20)]
print(json.dumps({"codes": [process.wait() for process in processes]}))
""")
    assert told(done) == {"codes": [3, 1] * 10}


def test_terminating_a_child_ends_what_it_started() -> None:
    done = node("""
process = spawn("stay")
deadline = time.monotonic() + 10
def members():
    found = []
    for entry in Path("/proc").iterdir():
        try: fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, NotADirectoryError): continue
        if fields[0] != "Z" and int(fields[2]) == process.pid: found.append(entry.name)
    return found
while len(members()) < 2 and time.monotonic() < deadline: time.sleep(0.01)
before = len(members())
process.terminate()
while members() and time.monotonic() < deadline: time.sleep(0.01)
print(json.dumps({"before": before, "after": len(members())}))
""")
    assert told(done) == {"before": 2, "after": 0}


def test_the_server_ends_with_its_node_and_says_so_when_it_was_killed() -> None:
    done = node("""
process = spawn("stay")
parent = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
os.kill(parent, 9)
code = process.wait()
try: spawn("exit"); again = "started"
except OSError: again = "refused"
print(json.dumps({"code": code, "alive": server.alive, "again": again}))
""")
    assert told(done) == {"code": -int(signal.SIGKILL), "alive": False, "again": "refused"}


def test_a_node_with_threads_gets_none() -> None:
    done = node("""
threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
print(json.dumps({"server": fork_server.start([], child) is not None}))
""")
    assert told(done) == {"server": False}
