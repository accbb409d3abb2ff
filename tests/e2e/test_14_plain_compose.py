"""The deployment by `docker compose` alone, typed with no flags and without a `make` before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, free_port
from tests.e2e.test_04_participants import registered

BACK_SECONDS = 30.0
DIGEST = "find /kit -type f -exec sha256sum {} + | sort"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A checkout, in a folder as people name them, whose `.env` says no more than another port and where the images start from."""
    home = tmp_path_factory.mktemp("plain") / "my checkout"
    home.mkdir()
    stack = Stack(home, f"multisite-e2e-plain-{os.getpid()}", free_port(), home.parent / "transcript.txt")
    stack.create()
    stack.write_key(None)
    base = stack.run("docker/base-image.sh", "debian:bookworm-slim").text.split()[-1]
    kept = ("COMPOSE_PROJECT_NAME", "SERVER_PORT", "CIFAR10_DIR", "DATASET", "DATA_LIMIT")
    lines = [f"BASE_IMAGE={base}", *(f"{name}={value}" for name, value in stack.settings.items() if name in kept and value)]
    (home / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        for command in (["build"], ["up", "-d"]):
            done = stack.compose(*command, seconds=900)
            assert done.code == 0, done.text
        yield stack
    finally:
        stack.destroy()


def everybody(stack: Stack) -> bool:
    return '"site-1", "site-2"' in registered(stack)


def kits(stack: Stack) -> dict[str, str]:
    return {name: stack.execute(name, "sh", "-c", DIGEST).text for name in ("server", "site-1", "site-2", "admin")}


def test_a_fresh_checkout_comes_up_without_make_and_without_a_key(plain: Stack) -> None:
    plain.wait_for(lambda: everybody(plain), "both sites registered", BACK_SECONDS)


def test_a_second_up_makes_no_participant_anew_and_changes_no_kit(plain: Stack) -> None:
    before = plain.containers(), kits(plain)
    assert plain.compose("up", "-d").code == 0
    assert (plain.containers(), kits(plain)) == before


@pytest.mark.parametrize(
    "commands",
    [[["restart", "server"]], [["restart", "site-1"]], [["stop"], ["start"]], [["down"], ["up", "-d"]], [["kill"], ["start"]]],
    ids=lambda commands: " then ".join(" ".join(command) for command in commands),
)
def test_every_site_comes_back_by_itself(plain: Stack, commands: list[list[str]]) -> None:
    for command in commands:
        done = plain.compose(*command)
        assert done.code == 0, done.text
    plain.wait_for(lambda: everybody(plain), f"both sites registered after {commands}", BACK_SECONDS)


def test_make_up_takes_over_what_compose_began_and_keeps_the_kits(plain: Stack) -> None:
    before = kits(plain)
    done = plain.make("up")
    assert done.code == 0, done.text
    assert kits(plain) == before
    assert Path(plain.home / "secrets" / ".mounted" / "wandb_api_key").read_text(encoding="utf-8") == ""


def test_a_proxy_that_leads_nowhere_keeps_no_site_from_the_server(plain: Stack) -> None:
    done = plain.make("up", HTTP_PROXY="http://192.0.2.1:3128", HTTPS_PROXY="http://192.0.2.1:3128")
    assert done.code == 0, done.text
    assert "192.0.2.1" in plain.execute("server", "printenv", "HTTPS_PROXY").text, "it is there for W&B's writer"
    assert everybody(plain)


def test_deleting_everything_of_one_deployment_leaves_the_images_of_the_others(plain: Stack) -> None:
    tag = os.environ.get("IMAGE_TAG") or "local"
    other = f"multisite-e2e-other-{os.getpid()}-site:{tag}"
    assert plain.run("docker", "tag", f"{plain.name}-site:{tag}", other).code == 0
    try:
        done = plain.make("clean", WHAT="all")
        assert done.code == 0, done.text
        left = plain.run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").text.split()
        assert other in left
        assert not [name for name in left if name.startswith(f"{plain.name}-")]
        assert plain.run("docker", "volume", "ls", "--quiet", "--filter", f"name={plain.name}").text.strip() == ""
    finally:
        plain.run("docker", "image", "rm", other)
