"""Metrics against who holds one site's kit, and who holds a submitter's certificate: everybody else goes on as before."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.drill.job import spool, status_of
from tests.e2e.stack import Stack, job_id_in
from tests.wandb_backend.client import rows

HOSTILE = Path(__file__).with_name("drill") / "hostile.py"
ATTACK_SECONDS = 120
SLACK = 12  # descriptors: connections come and go
# Of the server's process: how many descriptors are open, and how many folders the spool has.
LOOK = """
import json, os, pathlib
pids = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]
def line(pid):
    try: return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\\0")
    except OSError: return []
node = min(pid for pid in pids if b"multisite.node" in line(pid) and line(pid)[0].endswith(b"python"))
spool = pathlib.Path("/workspace/spool")
print(json.dumps({"descriptors": len(os.listdir(f"/proc/{node}/fd")), "folders": sum(entry.is_dir() for entry in spool.iterdir())}))
"""
# A job as the shipped one, but for the file that it asks for as its model; by whoever may submit.
SUBMIT = """
import contextlib, json, pathlib, shutil, sys
from multisite.admin import service
from multisite.job.options import JobOptions
from multisite.job.recipe import Cifar10Recipe
folder = pathlib.Path("/tmp/hostile")
shutil.rmtree(folder, ignore_errors=True)
Cifar10Recipe(JobOptions(rounds=1, log_model=True)).export(str(folder))
(config,) = folder.rglob("config_fed_server.json")
content = json.loads(config.read_text())
(receiver,) = [part for part in content["components"] if part["id"] == "wandb_receiver"]
receiver["args"].update(json.loads(sys.argv[1]))
config.write_text(json.dumps(content))
with contextlib.redirect_stdout(sys.stderr), service.session() as flare:
    print(flare.submit_job(str(next(folder.iterdir()))), file=sys.__stdout__)
"""


def look(stack: Stack) -> dict[str, int]:
    done = stack.execute("server", "python", "-c", LOOK)
    assert done.code == 0, done.text
    return dict(json.loads(done.text.strip().splitlines()[-1]))


@dataclass
class Attack:
    """What was before, and what the attacker saw."""

    job_id: str
    before: dict[str, int]
    after: dict[str, int]
    seen: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def attack(stack: Stack) -> Attack:
    """An honest job; then a stranger with site-2's own kit in its place; then site-2 again."""
    done = stack.submit()
    assert done.code == 0, done.text
    job_id, before = job_id_in(done.text), look(stack)
    assert stack.compose("stop", "site-2").code == 0
    image = f"{stack.name}-site:{os.environ.get('IMAGE_TAG', 'local')}"
    try:
        ran = stack.run(
            "docker", "run", "--rm", "--name", f"{stack.name}-hostile", "--network", f"{stack.name}_site-2", "--read-only",
            "--tmpfs", "/tmp:mode=1777", "--memory", "1g", "--user", "1000:1000", "-v", f"{stack.name}_kit-site-2:/kit:ro",
            "-v", f"{HOSTILE}:/hostile/hostile.py:ro", "-e", "PYTHONPATH=/hostile", "-e", f"JOB={job_id}", "-e", "SITE=site-2",
            "--entrypoint", "python", image, "/hostile/hostile.py", seconds=ATTACK_SECONDS,
        )  # fmt: skip
    finally:
        stack.run("docker", "rm", "--force", f"{stack.name}-hostile")
    lines = [json.loads(line.split(" ", 1)[1]) for line in ran.text.splitlines() if line.startswith("HOSTILE ")]
    seen = {str(line["kind"]): line for line in lines}
    assert set(seen) == {"unknown", "fields", "record", "commands"}, ran.text[-3000:]
    after = look(stack)
    assert stack.make("up").code == 0
    return Attack(job_id, before, after, seen)


def test_messages_for_jobs_that_do_not_exist_leave_no_folder_and_no_descriptor(attack: Attack) -> None:
    unknown = attack.seen["unknown"]
    assert unknown["refused"] == unknown["sent"] == 20_000
    assert unknown["lost"] == 0
    assert attack.after["folders"] == attack.before["folders"]
    assert attack.after["descriptors"] <= attack.before["descriptors"] + SLACK


def test_one_sites_kit_must_not_command_another_site_or_speak_under_another_name(stack: Stack, attack: Attack) -> None:
    assert attack.seen["commands"]["answered"] == []
    log = stack.compose("logs", "--no-log-prefix", "server").text
    assert "refused a message of site-2: a site may not send admin/sys.shell to site-1" in log
    assert "is stopping" not in stack.compose("logs", "--no-log-prefix", "--tail", "5", "site-1").text
    status = stack.make("status").text
    assert {line.split()[0] for line in status.splitlines() if line.startswith("site-")} == {"site-1", "site-2"}


def test_every_field_of_another_kind_is_refused(attack: Attack) -> None:
    fields = attack.seen["fields"]
    assert fields["taken"] == []
    assert fields["missing"] == []


def test_a_record_that_is_none_is_set_aside_in_its_job_and_status_and_sync_say_so_and_work(stack: Stack, attack: Attack) -> None:
    assert "error" not in attack.seen["record"]["after"]
    logged, bad = attack.seen["record"]["logged"], attack.seen["record"]["bad"]
    synced = stack.make("sync")
    assert synced.code == 0, synced.text
    sites = spool(stack, "server", attack.job_id)["sites"]
    assert (sites["site-2"]["delivered"], sites["site-2"]["set_aside"]) == (logged, bad)
    assert (sites["site-1"]["pending"], sites["site-1"]["set_aside"]) == (0, 0)
    (run,) = [run for run in stack.backend().runs() if attack.job_id in run["group"] and run["display_name"].startswith("site-2-")]
    first = logged - bad + 1
    assert [row["records/set_aside"] for row in rows(run)[-bad:]] == list(range(first, logged + 1))
    status = stack.make("status")
    assert status.code == 0, status.text
    assert f"job {attack.job_id}, site-2: {bad} records are no metrics and set aside" in status.text
    assert "refused of site-2" in status.text
    assert "the server knows no job evil" in status.text
    assert "\x1b" not in status.text


def test_a_job_after_it_completes_with_every_metric_of_every_site(stack: Stack, attack: Attack) -> None:
    done = stack.submit()
    assert done.code == 0, done.text
    account = json.loads((stack.home / "results" / job_id_in(done.text) / "tracking.json").read_text(encoding="utf-8"))
    assert set(account["sites"]) == {"server", "site-1", "site-2"}
    for site in account["sites"].values():
        assert site["logged"] > 0
        assert site["pending"] == site["set_aside"] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"artifact": "../startup/server.key"}, "artifact must be the plain name of a file"),
        ({"wandb_args": {"project": "p", "config": "/kit/startup/fed_server.json"}}, "wandb_args: config must be an object"),
    ],
)
def test_a_job_that_asks_for_a_file_of_the_server_ends_with_the_reason_and_sends_nothing(
    stack: Stack, arguments: dict[str, Any], reason: str
) -> None:
    done = stack.execute("admin", "python", "-c", SUBMIT, json.dumps(arguments))
    assert done.code == 0, done.text
    job_id = done.text.strip().splitlines()[-1].split()[-1]
    stack.wait_for(lambda: status_of(stack, job_id).startswith("FINISHED"), f"the end of job {job_id}", 120)
    assert status_of(stack, job_id) != "FINISHED:COMPLETED"
    assert reason in stack.compose("logs", "server").text
    assert not [run for run in stack.backend().runs() if job_id in str(run["group"])]
    assert not [artifact for artifact in stack.backend().document["artifacts"].values() if job_id in artifact["name"]]
