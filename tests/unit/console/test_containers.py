"""The order in which `make up` touches containers, and what it leaves running when something fails."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from multisite.console import cleaning, kits, running_jobs
from multisite.console import deployment as deployment_module
from multisite.console.containers import ONE_SHOTS, Containers, complaint
from multisite.console.deployment import CLIENT_STREAM, Deployment
from multisite.console.docker import Container, Docker, Result
from multisite.console.settings import ConsoleError, Settings, read_env

SERVICES = ("admin", "data", "provision", "server", "site-1")


class StackDocker(Docker):
    """Containers that Compose makes and starts; notes what happened to whom.

    Attributes:
        failing: the one-shot that fails, or `up` for Compose's start of all of them.
        stale: services that would be made anew.
        happened: what happened, in its order.
        new_kits: what provisioning would say in a dry run.
        said: what it says.
    """

    def __init__(self, home: Path, failing: str = "", stale: Sequence[str] = (), up: bool = False) -> None:
        super().__init__(home, "ms")
        self.failing, self.stale = failing, stale
        self.states = {name: "exited" if name in ONE_SHOTS else "running" if up else "created" for name in SERVICES}
        self.happened: list[str] = []
        self.files: list[str] = []
        self.new_kits = self.said = ""

    def containers(self) -> dict[str, Container]:
        return {name: Container(name, name, state, None) for name, state in self.states.items()}

    def run(self, arguments: Sequence[str], seconds: float = 1.0) -> Result:
        if arguments[:2] == ["compose", "run"]:
            if "--dry-run" in arguments:
                return Result(0, f"{self.new_kits}\n", "")
            return self._run(arguments[-1])
        if "--dry-run" in arguments:
            lines = [f" Container ms-{name}-1 Recreate \n Container ms-{name}-1 Recreated \n" for name in self.stale]
            return Result(0, "", " Container ms-site-1-1 Running \n".join(["", *lines, " Container ms-data-1 Starting \n"]))
        if arguments[:2] == ["compose", "up"]:
            return self._up()
        if "restart" in arguments:
            self.happened += [f"{name} restarted" for name in arguments[arguments.index("restart") + 1 :]]
        return Result(0, "", "")

    def _run(self, name: str) -> Result:
        self.happened.append(f"{name} ended")
        if name == self.failing:
            return Result(1, "", f" Container ms-{name}-run Created \n{name}: a broken file\n  next: another file\n")
        return Result(0, self.said if name == "provision" else "rubbish of another one\n", "")

    def _up(self) -> Result:
        self.files.append(self.env()["COMPOSE_FILE"] if "COMPOSE_FILE" in self.environment else "")
        if self.failing == "up" and len(self.files) == 1:
            self.states["server"] = "created"
            return Result(1, "", " Container ms-server-1 Recreate \nno room for another network")
        self.happened += [f"{name} made anew" for name in self.stale]
        self.states = {name: "exited" if name in ONE_SHOTS else "running" for name in self.states}
        return Result(0, "", "")


def test_the_services_that_compose_would_make_anew_are_what_its_dry_run_says(tmp_path: Path) -> None:
    containers = Containers(StackDocker(tmp_path, stale=["server", "site-1"], up=True))
    assert containers.changes() == ["server", "site-1"]
    assert containers.outdated() == ["server", "site-1"]
    assert Containers(StackDocker(tmp_path, up=True)).changes() == []


@pytest.mark.parametrize(
    ("line", "service"),
    [
        (" Container ms-site-2-1 Recreate ", "site-2"),
        (" Container ms-server-1 Creating ", "server"),
        ("DRY-RUN MODE -  Container ms-old-1 Removed ", "old"),
        (" Container 3bc47035292c_ms-server-1 Recreate ", "server"),
    ],
)
def test_a_line_of_the_dry_run_names_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, service: str) -> None:
    docker = StackDocker(tmp_path)
    monkeypatch.setattr(docker, "run", lambda *_, **__: Result(0, "", f" Container ms-admin-1 Running \n{line}\n"))
    assert Containers(docker).changes() == [service]


def test_compose_files_that_can_not_be_read_are_an_error_with_composes_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = StackDocker(tmp_path)
    monkeypatch.setattr(docker, "run", lambda *_, **__: Result(1, "", "services.x must be a mapping\n"))
    with pytest.raises(ConsoleError, match=r"compose files: services.x must be a mapping\n  next: correct COMPOSE_EXTRA"):
        Containers(docker).changes()


@pytest.mark.parametrize("name", ["data", "provision"])
def test_a_one_shot_that_fails_is_an_error_with_its_own_message(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConsoleError, match=f"^{name}: a broken file\n  next: another file$"):
        Containers(StackDocker(tmp_path, failing=name)).prepare()


def test_down_removes_the_networks_of_compose_files_that_are_not_chosen_any_more_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = StackDocker(tmp_path, up=True)
    commands: list[Sequence[str]] = []

    def run(arguments: Sequence[str], seconds: float = 1.0) -> Result:
        commands.append(list(arguments))
        return Result(0, "egress-site-1\negress-site-2\n" if arguments[:2] == ["network", "ls"] else "", "")

    monkeypatch.setattr(docker, "run", run)
    cleaning.down(Deployment(Settings(tmp_path, {}), docker))
    assert commands[-1] == ["network", "rm", "egress-site-1", "egress-site-2"]


def test_composes_progress_is_no_part_of_its_complaint() -> None:
    said = " Container ms-server-1 Recreate \n Network ms_egress Created \nError response from daemon: Unknown runtime specified nope\n"
    assert complaint(said * 2) == "Error response from daemon: Unknown runtime specified nope"
    assert complaint(" Container ms-server-1 Error\n") == "Container ms-server-1 Error"


def test_a_containers_message_reaches_the_terminal_without_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = StackDocker(tmp_path)
    monkeypatch.setattr(docker, "_run", lambda *_: Result(1, "data: \x1b[2Jbroken\x07\n", ""))
    with pytest.raises(ConsoleError, match=r"^data: broken\n  next: "):
        Containers(docker).prepare()


@pytest.mark.parametrize(
    ("said", "restarted"),
    [
        ("new kits: server, site-1, site-9, admin@multisite.example", ["admin", "server", "site-1"]),
        ("new kits: site-9", []),  # it was not there before: it starts with the kit
        ("kits are up to date", []),
    ],
)
def test_who_runs_while_given_a_new_kit_is_restarted_before_make_up_returns(
    tmp_path: Path, said: str, restarted: list[str]
) -> None:
    docker = StackDocker(tmp_path, up=True)
    Containers(docker).renew(f"{said}\n", ["server", "site-1", "admin"])
    assert docker.happened == [f"{name} restarted" for name in restarted]


def test_who_types_make_up_reads_whose_kit_is_new_and_which_site_has_to_be_brought_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "kits are made anew: NVFlare is 2.9.1 and was 2.9.0",
        "site-9 is on another host and needs its new kit: make kit SITE=site-9",
        "new kits: server, site-1",
    ]
    docker = StackDocker(tmp_path)
    docker.said = "\n".join(lines) + "\n"
    Containers(docker).prepare()
    assert capsys.readouterr().out.splitlines() == lines


def test_kits_that_are_up_to_date_are_not_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docker = StackDocker(tmp_path)
    docker.said = "kits are up to date\n"
    Containers(docker).prepare()
    assert capsys.readouterr().out == ""


def test_a_kit_is_written_from_what_provisioning_sends_and_a_refusal_keeps_its_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        said = b" Container x-provision Creating \nprovision: project.yml has no site site-9\n  next: add it\n"
        return subprocess.CompletedProcess(command, 2, b"", said)

    monkeypatch.setattr(kits.subprocess, "run", run)
    with pytest.raises(ConsoleError, match=r"^provision: project.yml has no site site-9\n  next: add it$"):
        kits.export(Deployment(Settings(tmp_path, {}), StackDocker(tmp_path)), "site-9")
    assert commands[0][-2:] == ["multisite.provisioning.provision", "--export=site-9"]
    assert not (tmp_path / "kits").exists()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is built, and nobody registers."""
    monkeypatch.setattr(deployment_module.images, "build", lambda *_: {})
    monkeypatch.setattr(Deployment, "wait", lambda _: {"registered": [], "resources": {}})
    monkeypatch.setattr(running_jobs, "running", lambda _: [])
    monkeypatch.setattr(
        deployment_module.preflight,
        "check",
        lambda _, docker: [name for name, container in docker.containers().items() if container.state == "running"],
    )


def stack(home: Path, docker: Docker) -> Deployment:
    (home / ".env").write_text("COMPOSE_FILE=compose.yaml\nGPUS=none\n", encoding="utf-8")
    return Deployment(Settings(home, read_env(home / ".env")), docker)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("failing", ["data", "provision"])
def test_what_fails_before_the_start_leaves_every_container_and_what_env_says(tmp_path: Path, failing: str) -> None:
    docker = StackDocker(tmp_path, failing=failing, stale=["server", "site-1"], up=True)
    deployment = stack(tmp_path, docker)
    before = (tmp_path / ".env").read_text(encoding="utf-8")
    with pytest.raises(ConsoleError, match=f"^{failing}: a broken file"):
        deployment.up(client_stream=True)
    assert {docker.states[name] for name in ("admin", "server", "site-1")} == {"running"}
    assert not [what for what in docker.happened if not what.endswith("ended")]
    assert (tmp_path / ".env").read_text(encoding="utf-8") == before


@pytest.mark.usefixtures("engine")
def test_what_fails_half_way_through_the_start_ends_with_the_compose_files_of_before_and_everything_running(tmp_path: Path) -> None:
    docker = StackDocker(tmp_path, failing="up", stale=["server", "site-1"], up=True)
    deployment = stack(tmp_path, docker)
    with pytest.raises(ConsoleError, match="no room for another network"):
        deployment.up(client_stream=True)
    assert {docker.states[name] for name in ("admin", "server", "site-1")} == {"running"}
    assert docker.files == [f"compose.yaml:{CLIENT_STREAM}", "compose.yaml"]
    assert read_env(tmp_path / ".env")["COMPOSE_FILE"] == "compose.yaml"


@pytest.mark.usefixtures("engine")
def test_env_says_where_the_key_is_once_the_containers_are_made_so(tmp_path: Path) -> None:
    stack(tmp_path, StackDocker(tmp_path, stale=["server", "site-1"], up=True)).up(client_stream=True)
    assert read_env(tmp_path / ".env")["COMPOSE_FILE"] == f"compose.yaml:{CLIENT_STREAM}"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("stale", "new_kits", "moved", "cause"),
    [
        (["server", "site-1"], "", True, "moving the key to the sites"),
        (["site-1"], "", False, "new code or settings of site-1"),
        ([], "new kits: server, site-9", False, "a new kit for server"),
        (["server"], "new kits: site-1", False, "new code or settings of server and a new kit for site-1"),
    ],
)
def test_a_running_job_is_named_and_nothing_is_touched_without_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: list[str], new_kits: str, moved: bool, cause: str
) -> None:
    monkeypatch.setattr(running_jobs, "running", lambda _: ["job-7"])
    monkeypatch.delenv("FORCE", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    docker = StackDocker(tmp_path, stale=stale, up=True)
    docker.new_kits = new_kits
    deployment = stack(tmp_path, docker)
    with pytest.raises(ConsoleError) as refused:
        deployment.up(client_stream=moved)
    assert f"job job-7 is running, and {cause} would kill it" in str(refused.value)
    assert "FORCE=yes" in str(refused.value)
    assert docker.happened == []
    monkeypatch.setenv("FORCE", "yes")
    deployment.up(client_stream=moved)
    assert "provision ended" in docker.happened


@pytest.mark.usefixtures("engine")
def test_a_change_that_leaves_the_server_and_the_sites_alone_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_jobs, "running", lambda _: ["job-7"])
    docker = StackDocker(tmp_path, stale=["admin"], up=True)
    docker.new_kits = "new kits: site-9, admin@multisite.example"
    docker.states["site-9"] = "created"
    stack(tmp_path, docker).up()
    assert "admin made anew" in docker.happened
    assert "server restarted" not in docker.happened


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("", False), ("n", False)])
def test_a_person_at_a_terminal_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool) -> None:
    monkeypatch.setattr(running_jobs, "running", lambda _: ["job-7"])
    monkeypatch.delenv("FORCE", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    docker = StackDocker(tmp_path, stale=["server"], up=True)
    if goes_on:
        stack(tmp_path, docker).up()
        assert "server made anew" in docker.happened
    else:
        with pytest.raises(ConsoleError, match="job-7 is running"):
            stack(tmp_path, docker).up()
        assert docker.happened == []
