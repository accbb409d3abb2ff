"""What `make up` checks and writes on the host, without an engine."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from multisite.console import preflight
from multisite.console.containers import ONE_SHOTS
from multisite.console.deployment import CLIENT_STREAM, GPU, Deployment, dataset
from multisite.console.docker import Container, Docker, Result
from multisite.console.settings import ConsoleError, Settings

KEY = "k" * 40
Usage = namedtuple("Usage", "total used free")


class FakeDocker(Docker):
    """Answers `docker info` and nothing else."""

    runtimes: tuple[str, ...] = ("runc",)

    def run(self, arguments: Sequence[str], seconds: float = 1.0) -> Result:
        if arguments[0] == "info":
            answer = {"ServerVersion": "20.10", "DockerRootDir": str(self.home), "Runtimes": {name: {} for name in self.runtimes}}
            return Result(0, json.dumps(answer), "")
        return Result(1, "", "no such image")


def deployment(home: Path, **values: str) -> Deployment:
    return Deployment(Settings(home, values), FakeDocker(home))


def test_a_full_disk_is_an_error_with_the_place_and_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage(100 * 2**30, 97 * 2**30, 3 * 2**30))
    with pytest.raises(ConsoleError) as caught:
        preflight.check_disk(FakeDocker(tmp_path).info(), images_exist=False)
    for part in ("disk: 3.0 GiB free", str(tmp_path), "12 GiB needed", "next: "):
        assert part in str(caught.value)


def test_enough_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage(100 * 2**30, 80 * 2**30, 20 * 2**30))
    preflight.check_disk(FakeDocker(tmp_path).info(), images_exist=False)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage(100 * 2**30, 97 * 2**30, 3 * 2**30))
    preflight.check_disk(FakeDocker(tmp_path).info(), images_exist=True)


def staged(home: Path) -> Path:
    return home / "secrets" / ".mounted" / "wandb_api_key"


def test_the_key_is_staged_for_the_container_in_a_folder_that_only_its_owner_enters(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "wandb_api_key").write_text(f" {KEY}\n", encoding="utf-8")
    deployment(tmp_path).stage_key()
    assert staged(tmp_path).read_text(encoding="utf-8") == KEY
    assert stat.S_IMODE(staged(tmp_path).stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_a_new_key_is_staged_in_place_so_that_a_running_container_sees_it(tmp_path: Path) -> None:
    source = tmp_path / "key"
    source.write_text(KEY, encoding="utf-8")
    deployment(tmp_path, WANDB_KEY_FILE=str(source)).stage_key()
    before = staged(tmp_path).stat().st_ino
    source.write_text("n" * 40, encoding="utf-8")
    deployment(tmp_path, WANDB_KEY_FILE=str(source)).stage_key()
    assert staged(tmp_path).read_text(encoding="utf-8") == "n" * 40
    assert staged(tmp_path).stat().st_ino == before


def test_without_a_key_an_empty_one_is_staged(tmp_path: Path) -> None:
    deployment(tmp_path).stage_key()
    assert staged(tmp_path).read_text(encoding="utf-8") == ""


def test_a_named_key_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match=r"WANDB_KEY_FILE=.*nowhere does not exist"):
        deployment(tmp_path, WANDB_KEY_FILE="nowhere").stage_key()


def test_the_choice_of_compose_files_is_every_commands_from_there_on(tmp_path: Path) -> None:
    up = deployment(tmp_path, COMPOSE_EXTRA="mine.yaml")
    assert up.configure(client_stream=True)["COMPOSE_FILE"] == f"compose.yaml:{CLIENT_STREAM}:mine.yaml"
    assert up.docker.env()["COMPOSE_FILE"] == f"compose.yaml:{CLIENT_STREAM}:mine.yaml"
    assert up.configure(client_stream=False)["COMPOSE_FILE"] == "compose.yaml:mine.yaml"


def test_a_thread_count_changed_in_env_after_the_first_up_is_what_sites_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    env = tmp_path / ".env"
    env.write_text("SITE_THREADS=\n", encoding="utf-8")
    for before, now, threads in (("", "", "4"), ("", "3", "3"), ("3", "", "4")):
        text = env.read_text(encoding="utf-8")
        env.write_text(text.replace(f"SITE_THREADS={before}\n", f"SITE_THREADS={now}\n"), encoding="utf-8")
        settings = Settings.load(tmp_path)
        managed = Deployment(settings, FakeDocker(tmp_path)).configure(client_stream=False)
        settings.remember(managed)
        assert managed["SITE_THREADS_DEFAULT"] == threads


def fake_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_are_reserved_unasked_where_driver_and_runtime_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, monkeypatch)
    monkeypatch.setattr(FakeDocker, "runtimes", ("nvidia", "runc"))
    assert GPU in deployment(tmp_path).configure(client_stream=False)["COMPOSE_FILE"]
    assert GPU not in deployment(tmp_path, GPUS="none").configure(client_stream=False)["COMPOSE_FILE"]


def test_gpus_asked_for_without_dockers_runtime_are_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, monkeypatch)
    with pytest.raises(ConsoleError, match="NVIDIA runtime"):
        deployment(tmp_path, GPUS="all").configure(client_stream=False)


def test_a_synthetic_shard_of_another_partition_does_not_make_a_result_synthetic() -> None:
    shards = {
        "iid-seed0": {"examples": 9, "dataset": "cifar10", "alpha": None, "seed": 0},
        "iid-seed5": {"examples": 9, "dataset": "synthetic", "alpha": None, "seed": 5},
    }
    resources = {"site-1": {"shards": shards}}
    assert dataset(resources, ["site-1"], None, 0) == "cifar10"
    assert dataset(resources, ["site-1"], None, 5) == "synthetic"


def holding(name: str) -> dict[str, Any]:
    return {"shards": {"iid-seed0": {"examples": 9, "dataset": name, "alpha": None, "seed": 0}}}


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({"site-1": "cifar10", "site-2": "cifar10"}, "cifar10"),
        ({"site-1": "cifar10", "site-2": "synthetic"}, "synthetic"),
        ({"site-1": "cifar10"}, "unknown"),  # site-2 has not answered yet
        ({"site-1": "synthetic"}, "synthetic"),
        ({}, "unknown"),
        ({"site-1": "cifar10", "site-2": "own"}, "unknown"),
        ({"site-1": "own", "site-2": "own"}, "unknown"),
        ({"site-1": "cifar10", "site-2": ""}, "unknown"),
        ({"site-1": "cifar10", "site-2": "cifar10", "site-3": "synthetic"}, "cifar10"),  # site-3 takes no part
    ],
)
def test_the_dataset_is_known_where_all_of_the_jobs_sites_agree_or_any_is_synthetic(held: dict[str, str], expected: str) -> None:
    resources = {site: holding(name) for site, name in held.items()}
    assert dataset(resources, ["site-1", "site-2"], None, 0) == expected


def test_of_a_partition_that_no_site_has_a_shard_of_the_dataset_is_unknown() -> None:
    assert dataset({"site-1": holding("cifar10")}, ["site-1"], None, 1) == "unknown"
    assert dataset({"site-1": holding("cifar10")}, ["site-1"], 0.5, 0) == "unknown"
    assert dataset({}, [], None, 0) == "unknown"


def test_a_site_that_reports_nonsense_of_its_shards_breaks_nothing(tmp_path: Path) -> None:
    resources: dict[str, dict[str, Any]] = {
        "a": {"shards": 7},
        "b": {"shards": {"x": "y"}},
        "c": {"shards": {"x": {}}},
        "d": {"device": 3},
    }
    assert dataset(resources, list(resources), None, 0) == "unknown"
    stack, _ = running(tmp_path)
    lines = stack.table({"registered": list(resources), "resources": resources}).splitlines()
    assert [line.split()[0] for line in lines] == ["participant", "server", "a", "b", "c", "d", "site-1"]


class RunningDocker(FakeDocker):
    """A deployment that is up: two participants and the one-shots, all as the compose files say."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.there = {
            name: Container(
                service=name,
                id=f"id-{name}",
                state="exited" if name in ONE_SHOTS else "running",
                exit_code=0 if name in ONE_SHOTS else None,
            )
            for name in ("server", "site-1", *ONE_SHOTS)
        }

    def run(self, arguments: Sequence[str], seconds: float = 1.0) -> Result:
        return super().run(arguments, seconds)

    def containers(self) -> dict[str, Container]:
        return self.there


def running(home: Path) -> tuple[Deployment, RunningDocker]:
    (home / "project.yml").write_text("name: x\n", encoding="utf-8")
    docker = RunningDocker(home)
    return Deployment(Settings(home, {}), docker), docker


def test_without_docker_a_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConsoleError, match="docker is not installed"):
        Docker(tmp_path, "x").running("admin")
    assert Docker(tmp_path, "x").info() == {}


PS = "server\tid-1\trunning\tUp 2 minutes (healthy)\ndata\tid-2\texited\tExited (1) 3 seconds ago\n"


def test_containers_are_read_with_their_state_and_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDocker, "run", lambda *_, **__: Result(0, PS, ""))
    docker = FakeDocker(tmp_path, "multisite")
    assert docker.containers() == {
        "server": Container("server", "id-1", "running", None),
        "data": Container("data", "id-2", "exited", 1),
    }
    assert docker.running("server")
    assert not docker.running("data")


@pytest.mark.parametrize(
    ("folder", "values", "project"),
    [
        ("multisite", {}, "multisite"),
        ("My Übung.2", {}, "mybung2"),
        ("_x-y_1", {}, "x-y_1"),
        ("x", {"COMPOSE_PROJECT_NAME": "mine"}, "mine"),
    ],
)
def test_the_projects_name_is_what_compose_makes_of_the_folders(
    tmp_path: Path, folder: str, values: dict[str, str], project: str
) -> None:
    assert Settings(tmp_path / folder, values).project == project


def test_a_gateway_that_keeps_failing_is_no_deployment_that_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local sites go past it: they register all the same."""
    stack, docker = running(tmp_path)
    docker.there["gateway"] = dataclasses.replace(docker.there["server"], service="gateway", state="restarting")
    monkeypatch.setattr(docker, "compose", lambda *_, **__: Result(0, "cannot bind\n", ""))
    monkeypatch.setattr(Deployment, "admin", lambda *_, **__: [{"event": "sites", "missing": [], "registered": []}])
    with pytest.raises(
        ConsoleError, match=r"gateway: its container keeps failing(.|\n)*cannot bind(.|\n)*next: docker compose logs gateway"
    ):
        stack.wait()
