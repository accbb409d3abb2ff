"""The images: built by Compose from a base image that is there, and deleted only where they are the deployment's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from multisite.console import images
from multisite.console.docker import Docker, Result
from multisite.console.settings import ConsoleError, Settings


class BuildDocker(Docker):
    """Answers `docker image ls` and `docker compose build`."""

    code, said, listed = 0, "", ""

    def run(self, arguments: Sequence[str], seconds: float = 1.0) -> Result:
        if arguments[0] == "image":
            return Result(0, self.listed, "")
        return Result(self.code, "", self.said)


def project(home: Path, found: str) -> Path:
    """A folder whose `docker/base-image.sh` prints `found`, after the image that it was asked for."""
    script = home / "docker" / "base-image.sh"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$1" >> asked\necho {found}\n', encoding="utf-8")
    script.chmod(0o755)
    return home


@pytest.mark.parametrize(
    ("found", "here"), [("debian:bookworm-slim", ""), ("multisite-base:bookworm-slim", "multisite-base:bookworm-slim")]
)
def test_a_base_image_that_was_made_here_is_remembered_beside_the_one_that_is_set(tmp_path: Path, found: str, here: str) -> None:
    docker = BuildDocker(project(tmp_path, found), "mine")
    settings = Settings(tmp_path, {"BASE_IMAGE_HERE": "multisite-base:old-slim"})
    assert images.build(settings, docker) == {"BASE_IMAGE_HERE": here}
    assert docker.env()["BASE_IMAGE_HERE"] == here
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "debian:bookworm-slim\n"


def test_another_base_image_in_env_is_what_is_asked_for_from_then_on(tmp_path: Path) -> None:
    docker = BuildDocker(project(tmp_path, "debian:trixie-slim"), "mine")
    settings = Settings(tmp_path, {"BASE_IMAGE": "debian:trixie-slim", "BASE_IMAGE_HERE": "multisite-base:bookworm-slim"})
    assert images.build(settings, docker) == {"BASE_IMAGE_HERE": ""}


def test_a_build_that_fails_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    docker = BuildDocker(project(tmp_path, "debian:bookworm-slim"), "mine")
    docker.code, docker.said = 1, "".join(f"#{number} step\n" for number in range(100)) + "E: no such package\n"
    with pytest.raises(ConsoleError) as failed:
        images.build(Settings(tmp_path, {}), docker)
    assert "E: no such package" in str(failed.value)
    assert "#10 step" not in str(failed.value)
    assert "CA_BUNDLE" in str(failed.value)


def test_an_engine_that_builds_in_no_folder_with_an_umlaut_is_an_error_with_the_cure(tmp_path: Path) -> None:
    docker = BuildDocker(project(tmp_path, "debian:bookworm-slim"), "mine")
    docker.code, docker.said = (
        1,
        'header key "x-docker-expose-session-sharedkey" contains value with non-printable ASCII characters\n',
    )
    with pytest.raises(ConsoleError, match=r"next: this engine builds in no folder .*: rename the folder"):
        images.build(Settings(tmp_path, {}), docker)


def test_without_a_base_image_the_script_has_said_why(tmp_path: Path) -> None:
    script = project(tmp_path, "x") / "docker" / "base-image.sh"
    script.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        images.build(Settings(tmp_path, {}), BuildDocker(tmp_path, "mine"))


def test_the_images_of_a_deployment_are_those_of_its_own_name(tmp_path: Path) -> None:
    docker = BuildDocker(tmp_path, "mine")
    docker.listed = "mine-control:local\nmine-site:next\nmine-too-site:local\nmine-other:local\nmine-gateway:local\n"
    assert images.names(docker) == ["mine-control:local", "mine-site:next", "mine-gateway:local"]
