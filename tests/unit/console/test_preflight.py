"""The server's port is checked before anything is touched, beside a server that runs too."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from multisite.console import preflight
from multisite.console.docker import Docker, Result
from multisite.console.settings import ConsoleError, Settings

HERE, ALSO_HERE, EVERYWHERE = "127.0.0.1", "127.0.0.2", "0.0.0.0"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens, on one address."""
    with socket.socket() as listener:
        listener.bind((HERE, 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def settings(address: str, port: int) -> Settings:
    return Settings(Path(), {"BIND_ADDRESS": address, "SERVER_PORT": str(port)})


def test_a_port_that_somebody_else_has_is_refused_with_the_settings_that_change_it(taken: int) -> None:
    with pytest.raises(ConsoleError, match=rf"port: {HERE}:{taken} can't be used(.|\n)*SERVER_PORT or BIND_ADDRESS"):
        preflight.check_port(settings(HERE, taken))


def test_a_running_server_that_is_to_move_to_a_taken_port_is_refused_before_it_does(taken: int) -> None:
    with pytest.raises(ConsoleError, match="can't be used"):
        preflight.check_port(settings(HERE, taken), published=(HERE, taken + 1))


def test_a_running_servers_own_port_is_not_taken(taken: int) -> None:
    preflight.check_port(settings(HERE, taken), published=(HERE, taken))


@pytest.mark.parametrize(("published", "wanted"), [(HERE, EVERYWHERE), (EVERYWHERE, HERE)])
def test_a_running_server_may_be_published_on_more_or_fewer_addresses(published: str, wanted: str) -> None:
    with socket.socket() as server:
        server.bind((published, 0))
        server.listen()
        port = server.getsockname()[1]
        preflight.check_port(settings(wanted, port), published=(published, port))


def test_a_running_server_may_not_be_published_where_somebody_else_listens(taken: int) -> None:
    with pytest.raises(ConsoleError, match="can't be used"):
        preflight.check_port(settings(EVERYWHERE, taken), published=(ALSO_HERE, taken))
    with pytest.raises(ConsoleError, match="can't be used"):
        preflight.check_port(settings(HERE, taken), published=(ALSO_HERE, taken))


def test_an_address_that_is_not_this_hosts_is_refused(taken: int) -> None:
    for published in (None, (EVERYWHERE, taken)):
        with pytest.raises(ConsoleError, match=r"192\.0\.2\.1:\d+ can't be used"):
            preflight.check_port(settings("192.0.2.1", taken), published)


def test_the_kernel_names_who_listens(taken: int) -> None:
    assert preflight.listeners(taken) == {HERE}


def test_a_project_file_that_only_its_owner_can_read_is_named_with_the_cure(tmp_path: Path) -> None:
    project = tmp_path / "project.yml"
    preflight.check_readable(project)  # none yet: provisioning says so
    project.write_text("name: x\n", encoding="utf-8")
    project.chmod(0o600)
    with pytest.raises(ConsoleError, match="next: chmod a\\+r "):
        preflight.check_readable(project)
    project.chmod(0o644)
    preflight.check_readable(project)


@pytest.mark.parametrize(("place", "refused"), [("here", False), ("link", False), ("moved away", False), ("other", True)])
def test_a_deployment_in_another_folder_with_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, refused: bool
) -> None:
    for name in ("here", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    docker = Docker(tmp_path / "here", "mine")
    monkeypatch.setattr(docker, "run", lambda *_, **__: Result(0, f"{tmp_path / place}\n{tmp_path / place}\n", ""))
    monkeypatch.chdir(tmp_path / "here")
    for home in (tmp_path / "here", Path()):
        settings = Settings(home, {"COMPOSE_PROJECT_NAME": "mine"})
        if refused:
            with pytest.raises(
                ConsoleError, match=r"mine is the name of the deployment in .*/other too\n  next: .*COMPOSE_PROJECT_NAME"
            ):
                preflight.check_project(settings, docker)
        else:
            preflight.check_project(settings, docker)


def test_a_folder_whose_name_gives_compose_none_needs_one_in_env(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match=r"COMPOSE_PROJECT_NAME=\.\.\. in \.env"):
        preflight.check_project(Settings(tmp_path / "Ü", {}), Docker(tmp_path))
