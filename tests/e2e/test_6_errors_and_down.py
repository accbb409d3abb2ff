"""What fails says which step, why and what to do; and what `down` and `clean` leave."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import PROJECT, Stack, free_port


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


def test_gpus_that_are_asked_for_and_missing_are_an_error(copy: Stack) -> None:
    if shutil.which("nvidia-smi"):
        return  # this host has them: `up` must not fail
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


def test_broken_cifar10_is_named_and_never_replaced_by_synthetic_data(stack: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "cifar-10-batches-py"
    broken.mkdir()
    tmp_path.chmod(0o755)  # the container's user reads it
    (broken / "data_batch_1").write_bytes(b"half a file")
    done = stack.make("up", CIFAR10_DIR=str(tmp_path), SEED="77", DATASET="auto")
    assert done.code != 0
    assert "data:" in done.text
    assert "data_batch_1" in done.text
    assert stack.make("up").code == 0


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
