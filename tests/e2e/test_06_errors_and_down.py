"""What fails says which step, why and what to do; and what `down` and `clean` leave."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from multisite.console.env_file import read_assignments
from tests.e2e.stack import PROJECT, Stack, free_port
from tests.e2e.test_04_participants import add_site, registered
from tests.unit.console.test_env_file import READ


@pytest.fixture
def copy(tmp_path: Path) -> Stack:
    """A second deployment's folder, never brought up."""
    stack = Stack(tmp_path / "copy", f"multisite-e2e-copy-{os.getpid()}", free_port(), tmp_path / "transcript.txt")
    stack.home.mkdir()
    stack.create()
    return stack


def test_a_taken_port_is_named_with_the_setting_that_changes_it(copy: Stack) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", copy.port))
        listener.listen()
        done = copy.make("up")
    assert done.code != 0
    assert f"port: 127.0.0.1:{copy.port} can't be used" in done.text
    assert "SERVER_PORT" in done.text


def test_the_engine_is_found_by_a_user_whose_path_lacks_the_folders_for_administrators(copy: Stack) -> None:
    """Debian's dockerd is in /usr/sbin. Not found there, an installed engine would be installed again, and never started."""
    dockerd = shutil.which("dockerd", path="/usr/local/sbin:/usr/sbin:/sbin")
    if dockerd is None:
        pytest.skip("this machine's engine is in another folder")
    done = copy.run("bash", "-c", ". docker/engine.sh ensure && command -v dockerd", PATH="/usr/bin:/bin")
    assert done.code == 0, done.text
    assert done.text.strip().endswith("dockerd"), done.text


def test_without_an_engine_and_without_leave_to_install_one_nothing_is_installed(copy: Stack, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "timeout", "id", "cat", "env", "sh", "make", "mktemp"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "python3").symlink_to(os.path.realpath(sys.executable))
    done = copy.run("make", "up", PATH=str(tools), INSTALL_ENGINE="no")
    assert done.code != 0
    assert "a Docker engine is missing" in done.text
    assert "INSTALL_ENGINE=no" in done.text
    assert "next:" in done.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked: nobody else can install an engine")
def test_on_a_terminal_a_missing_engine_is_installed_after_a_question_alone(copy: Stack, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "timeout", "id", "cat", "env", "mktemp"):
        (tools / name).symlink_to(shutil.which(name) or name)
    for name in ("apt-get", "apt-cache"):  # would they be called, they would say so
        (tools / name).write_text("#!/bin/bash\necho apt was called\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    terminal, inside = os.openpty()
    os.write(terminal, b"n\n")
    try:
        done = subprocess.run(
            ["docker/engine.sh", "ensure"], cwd=copy.home, env={"PATH": str(tools)}, stdin=inside, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(inside)
    assert done.returncode != 0
    assert "a Docker engine is missing: install it with apt-get? [y/N]" in done.stderr
    assert "a Docker engine is missing, and nothing was installed" in done.stderr
    assert "apt was called" not in done.stdout


def test_without_a_base_image_and_without_a_way_to_build_it_the_next_step_is_named(copy: Stack) -> None:
    done = copy.run("docker/base-image.sh", "multisite-no-such-image:1")
    assert done.code != 0
    assert "no registry answers, and only debian:*-slim can be built here, not multisite-no-such-image:1" in done.text
    assert "next:" in done.text


def test_an_engine_elsewhere_that_does_not_answer_is_named(copy: Stack) -> None:
    done = copy.run("make", "up", DOCKER_HOST="tcp://127.0.0.1:1")
    assert done.code != 0
    assert "DOCKER_HOST=tcp://127.0.0.1:1" in done.text


def test_a_setting_that_names_no_folder_is_refused(copy: Stack) -> None:
    done = copy.make("up", CIFAR10_DIR="/no/such/folder")
    assert done.code != 0
    assert "CIFAR10_DIR=/no/such/folder does not exist" in done.text


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this host has GPUs: `make up GPUS=all` must not fail here")
def test_gpus_that_are_asked_for_and_missing_are_an_error(copy: Stack) -> None:
    done = copy.make("up", GPUS="all")
    assert done.code != 0
    assert "GPUS=all" in done.text
    assert "GPUS=none" in done.text


def test_the_gpu_overlay_reserves_every_gpu_for_the_sites_alone(copy: Stack) -> None:
    copy.stage()
    text = copy.compose("-f", "compose.yaml", "-f", "docker/gpu.yaml", "config", "--format", "json").text
    services = copy.parse(text)["services"]
    holding = {
        name
        for name, service in services.items()
        if (service.get("deploy") or {}).get("resources", {}).get("reservations", {}).get("devices")
    }
    assert holding == {"site-1", "site-2"}


HARDENED = {"user": "1000:1000", "read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "init": True}


@pytest.mark.parametrize(
    "overlays",
    [[], ["client-stream"], ["gpu"], ["ca"], ["client-stream", "gpu", "ca"]],
    ids=lambda overlays: " and ".join(overlays) or "none",
)
def test_with_every_overlay_compose_finds_a_valid_model_in_which_every_container_is_hardened(
    copy: Stack, overlays: list[str]
) -> None:
    files = [option for name in ["compose.yaml", *(f"docker/{name}.yaml" for name in overlays)] for option in ("-f", name)]
    done = copy.run("docker", "compose", *files, "config", "--format", "json", CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt")
    assert done.code == 0, done.text
    model = copy.parse(done.text)
    networks = {name: set(service.get("networks") or {}) for name, service in model["services"].items()}
    for name, service in model["services"].items():
        assert {key: service.get(key) for key in HARDENED} == HARDENED, name
        assert service["pids_limit"] <= 512
        assert int(service["mem_limit"]) <= 4 << 30
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & {key for key, value in service.items() if value}
    assert not networks["site-1"] & networks["site-2"]
    holders = {name for name, service in model["services"].items() if service.get("secrets")}
    assert holders == ({"site-1", "site-2"} if "client-stream" in overlays else {"server"})


def test_compose_and_the_console_read_the_env_file_alike(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: b}}\n", encoding="utf-8")
    env = tmp_path / ".env"
    env.write_text("".join(f"A{number}={value}\n" for number, value in enumerate(READ)), encoding="utf-8")
    command = ["docker", "compose", "config", "--environment"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    assert {f"A{number}={value}" for number, value in enumerate(READ.values())} <= set(listed.splitlines())
    assert [value for value, _ in read_assignments(env).values()] == list(READ.values())


def broken_cifar10(folder: Path) -> dict[str, str]:
    """Settings that name half a copy of CIFAR-10."""
    (folder / "cifar-10-batches-py").mkdir()
    folder.chmod(0o755)  # the container's user reads it
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half a file")
    return {"CIFAR10_DIR": str(folder), "SEED": "77", "DATASET": "auto"}


@pytest.mark.parametrize(
    ("fault", "verb", "problem", "next_step"),
    [
        ("org", "up", "provision: project.yml: participant site-3: org 'hospital-c'", "org: hospital_c"),
        ("yaml", "up", "provision: project.yml, line 9, column 3: no valid YAML", "correct that line"),
        ("port", "up", "can't be used", "SERVER_PORT or BIND_ADDRESS in .env"),
        ("cifar10", "up", "data_batch_1 is not the published file", "copy it again"),
        ("cifar10", "submit-client-stream", "data_batch_1 is not the published file", "copy it again"),
    ],
)
def test_a_make_up_that_fails_leaves_running_what_ran(
    stack: Stack, tmp_path: Path, fault: str, verb: str, problem: str, next_step: str
) -> None:
    project = stack.home / "project.yml"
    before = project.read_text(encoding="utf-8")
    state = stack.containers(), stack.inspect(stack.containers()["server"])["State"]["StartedAt"]
    env = (stack.home / ".env").read_text(encoding="utf-8")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settings = {"port": {"SERVER_PORT": str(listener.getsockname()[1])}, "cifar10": broken_cifar10(tmp_path)}.get(fault, {})
        try:
            if fault == "org":
                add_site(stack, "  - name: site-3\n    type: client\n    org: hospital-c\n")
            elif fault == "yaml":
                project.write_text(before.replace("participants:", "participants: ["), encoding="utf-8")
            done = stack.make(verb, **settings)
        finally:
            project.write_text(before, encoding="utf-8")
    assert done.code != 0
    said, _, advice = done.text.partition("next: ")
    assert problem in said
    assert next_step in advice.splitlines()[0]
    assert (stack.containers(), stack.inspect(stack.containers()["server"])["State"]["StartedAt"]) == state
    assert (stack.home / ".env").read_text(encoding="utf-8") == env
    assert '"site-1", "site-2"' in registered(stack)
    assert stack.make("up").code == 0
    assert stack.containers() == state[0], "and the next make up finds everything as it was"


def test_plain_make_prints_every_verb(copy: Stack) -> None:
    text = copy.run("make").text
    for verb in ("up", "submit", "submit-client-stream", "status", "logs", "results", "abort", "down", "clean", "test"):
        assert any(line.split()[0] == verb for line in text.splitlines() if line.strip()), verb


def test_clean_deletes_nothing_without_its_name(stack: Stack) -> None:
    before = stack.containers()
    done = stack.make("clean")
    assert done.code != 0
    assert "WHAT=" in done.text
    assert stack.containers() == before


def test_down_leaves_no_container_and_no_network_and_clean_leaves_no_volume(stack: Stack) -> None:
    label = f"label=com.docker.compose.project={stack.name}"
    assert stack.make("down").code == 0
    assert stack.run("docker", "ps", "--all", "--quiet", "--filter", label).text.strip() == ""
    assert stack.run("docker", "network", "ls", "--quiet", "--filter", label).text.strip() == ""
    assert f"{stack.name}_provision" in stack.run("docker", "volume", "ls", "--filter", label).text
    done = stack.make("clean", WHAT="keys,data,state,results")
    assert done.code == 0, done.text
    assert "root key" in done.text
    assert stack.run("docker", "volume", "ls", "--quiet", "--filter", label).text.strip() == ""
    assert not (stack.home / "results").exists()
    assert (PROJECT / "compose.yaml").exists()
