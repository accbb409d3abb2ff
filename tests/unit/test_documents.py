"""README and docs: every command in them is run by a test, or is here with the reason why not; every link and setting exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from multisite.console.names import GIVEN, OPTIONS, SETTINGS, check_given

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [PROJECT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted((PROJECT / "docs").glob("*.md"))
COMMAND = re.compile(r"(make|docker|python3?|pip|sudo|chown|uv|[A-Z_]+=\S+) ")
FENCE, INLINE = re.compile(r"```\w*\n(.*?)```", re.DOTALL), re.compile(r"`([^`\n]+)`")
E2E, SIMULATOR = "tests/e2e/", "tests/simulator/"
# A command, up to what varies in it -> who runs it.
RUN_BY = {
    "make up": E2E + "test_01_deployment.py::test_a_second_up_changes_nothing_and_takes_seconds",
    "make submit": E2E + "test_02_streaming.py::test_metrics_arrive_through_the_server_authenticated_by_its_key",
    "make submit-client-stream": E2E + "test_02_streaming.py::test_metrics_arrive_from_each_site_authenticated_by_its_key",
    "make submit ROUND=5": "tests/unit/console/test_names.py::test_an_unknown_name_is_refused_with_the_nearest_known_one",
    "make status": E2E + "test_04_participants.py::test_a_site_on_another_host_takes_part_as_the_docs_say",
    "make sync": E2E + "test_02_streaming.py::test_make_sync_delivers_what_is_pending_once_there_is_a_key_and_can_be_repeated",
    "make follow": E2E + "test_03_jobs_end.py::test_an_interrupted_submit_leaves_the_job_running",
    "make results": E2E
    + "test_05_result.py::test_a_job_that_was_exported_runs_on_the_deployment_and_reaches_what_make_submit_reaches",
    "make abort": E2E + "test_03_jobs_end.py::test_an_aborted_job_ends_as_aborted_and_submit_fails",
    "make kit": E2E + "test_04_participants.py::test_a_site_on_another_host_takes_part_as_the_docs_say",
    "make logs": "docker compose logs, followed until Ctrl-C",
    "make down": E2E + "test_06_errors_and_down.py::test_down_leaves_no_container_and_no_network_and_clean_leaves_no_volume",
    "make clean": E2E + "test_14_plain_compose.py::test_deleting_everything_of_one_deployment_leaves_the_images_of_the_others",
    "make test": ".ci/run",
    "make check": "part of make test",
    "make test-fast": "part of make test",
    "make test-next": "part of make test, with the locked pre-release; the newest one may be any",
    "make test-faults": "by hand: it takes an hour",
    "make bench": "by hand: it measures",
    "make bench-metrics": "by hand: it measures",
    "docker compose build": E2E + "test_14_plain_compose.py::test_a_fresh_checkout_comes_up_without_make_and_without_a_key",
    "docker compose up -d": E2E + "test_14_plain_compose.py::test_a_fresh_checkout_comes_up_without_make_and_without_a_key",
    "docker compose restart": E2E + "test_14_plain_compose.py::test_every_site_comes_back_by_itself",
    "docker compose down": E2E + "test_14_plain_compose.py::test_every_site_comes_back_by_itself",
    "docker compose ps": E2E + "test_14_plain_compose.py::test_a_second_up_makes_no_participant_anew_and_changes_no_kit",
    "docker compose logs": E2E + "test_02_streaming.py::test_a_healthy_round_is_a_few_lines_in_the_logs",
    "docker compose": "the commands below it",
    "docker inspect": E2E + "test_02_streaming.py::test_the_key_is_readable_in_the_server_only",
    "docker save": "the image of a site on another host: needs another host",
    "docker run": "docker/test.sh runs every test so",
    "SERVER_ADDRESS=": E2E + "test_04_participants.py::test_a_site_on_another_host_takes_part_as_the_docs_say",
    "chown -R": E2E + "test_04_participants.py::test_a_site_on_another_host_takes_part_as_the_docs_say",
    "sudo usermod": "changes this machine's users",
    "pip install .": "takes gigabytes from a package index; pyproject.toml's packages are those of the images",
    "uv pip compile": "asks a package index",
    "python jobs/wandb_job.py": SIMULATOR + "test_job.py::test_a_job_completes_and_says_what_it_reached_on_which_data",
    "python -m multisite.tracking.sync": SIMULATOR + "test_job.py::test_sync_delivers_a_finished_simulation_once_there_is_a_key",
    "python -m tests.bench": "by hand: it measures",
    "PYTHONPATH=src .venv/bin/python -m tests.bench": "by hand: it measures",
}
REFUSED = "make submit ROUND=5"
CONSOLE_VERBS = (*OPTIONS, "status", "sync", "down")


def commands() -> list[str]:
    found: dict[str, None] = {}
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        lines = [line.split(" #")[0].strip() for block in FENCE.findall(text) for line in block.splitlines()]
        for line in [*lines, *INLINE.findall(FENCE.sub("", text))]:
            if COMMAND.match(line):
                found.update(dict.fromkeys(part.strip().replace("sudo make", "make") for part in line.split("&&")))
    return list(found)


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documents_is_run_by_a_test_or_says_why_not(command: str) -> None:
    known = [begin for begin in RUN_BY if command == begin or command.startswith(begin if begin.endswith("=") else f"{begin} ")]
    known += [begin for begin in RUN_BY if begin.startswith(("python -m tests", "PYTHONPATH")) and command.startswith(begin)]
    assert known, f"nobody runs {command!r}"
    runner = RUN_BY[max(known, key=len)]
    if runner.startswith("tests/"):
        place, name = runner.split("::")
        assert re.search(rf"^def {name}\(", (PROJECT / place).read_text(encoding="utf-8"), re.MULTILINE), runner


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make ") and command != REFUSED])
def test_every_make_command_has_a_verb_and_options_that_make_knows(command: str) -> None:
    verb, *arguments = command.split()[1:]
    assert re.search(rf"^{verb}:.*## ", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    if verb in CONSOLE_VERBS:
        check_given(verb, {GIVEN: " ".join(argument.split("=")[0] for argument in arguments)})


def test_every_assignment_that_the_documents_name_is_a_setting_or_an_option() -> None:
    options = {name for names in OPTIONS.values() for name in names}
    tests_own = {
        "QUICK",
        "PYTHONPATH",
        "SERVER_ADDRESS",
        "SITE_IMAGE",
        "COMPOSE_PROJECT_NAME",
        "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL",
    }
    for path in DOCUMENTS:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        for name in re.findall(r"`(?:make [a-z-]+ )?([A-Z][A-Z_0-9]+)=[^`]*`", text):
            if f"{name}=" not in REFUSED:
                assert name in {*SETTINGS, *options, *tests_own}, f"{path.name}: {name}"


def test_every_link_to_a_file_of_the_project_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_packages_of_an_installation_without_docker_are_those_of_the_images() -> None:
    project = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
    assert found
    locked = "".join((PROJECT / "docker/requirements" / name).read_text(encoding="utf-8") for name in ("control.txt", "site.txt"))
    for package in re.findall(r'"([^"]+)"', found[1]):
        assert re.search(rf"^{re.escape(package)}{'' if '==' in package else '=='}", locked, re.MULTILINE), package
