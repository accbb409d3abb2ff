"""Both ways of streaming, end to end, and where the key is."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from tests.e2e.stack import KEY, WRONG_KEY, Done, Stack, job_id_in
from tests.wandb_backend.client import BackendState, rows

PATTERN = f"{KEY[:-1]}[{KEY[-1]}]"  # matches the key, and not the search for it
SERVICES = ("server", "site-1", "site-2", "admin")


@pytest.fixture(scope="module")
def through_server(stack: Stack) -> Done:
    done = stack.submit(LOG_MODEL="yes")
    assert done.code == 0, done.text
    return done


@pytest.fixture(scope="module")
def before_switch(stack: Stack, through_server: Done) -> dict[str, str]:
    return stack.containers()


@pytest.fixture(scope="module")
def from_clients(stack: Stack, before_switch: dict[str, str]) -> Done:
    done = stack.submit("submit-client-stream")
    assert done.code == 0, done.text
    return done


def runs_of(state: BackendState, job_id: str) -> list[dict[str, object]]:
    return [run for run in state.runs() if job_id in str(run["group"])]


def check_metrics(state: BackendState, job_id: str) -> None:
    """A run a site, with every round's evaluation and every round's training, exactly once."""
    runs = [run for run in runs_of(state, job_id) if not str(run["display_name"]).startswith("server-")]
    assert sorted(str(run["display_name"]).split("-cifar10")[0] for run in runs) == ["site-1", "site-2"]
    for run in runs:
        history = rows(run)
        assert [row["round"] for row in history if "test/accuracy" in row] == [0, 1, 2]
        assert [row["round"] for row in history if "train_round/train_loss" in row] == [1, 2]
        assert run["complete"]
        assert run["exit_code"] == 0


def test_metrics_arrive_through_the_server_authenticated_by_its_key(stack: Stack, through_server: Done) -> None:
    state, job_id = stack.backend(), job_id_in(through_server.text)
    check_metrics(state, job_id)
    for run in runs_of(state, job_id):
        assert set(run["auth"]) == {"hospital"}
        assert set(run["ips"]) <= stack.addresses("server")
    assert not state.unknown_ops
    assert not state.leaks


def test_the_server_has_a_run_of_the_global_model_and_who_took_part(stack: Stack, through_server: Done) -> None:
    (run,) = [
        run for run in runs_of(stack.backend(), job_id_in(through_server.text)) if str(run["display_name"]).startswith("server-")
    ]
    by_round = [row for row in rows(run) if "sites/reported" in row]
    assert [(row["round"], row["sites/reported"]) for row in by_round] == [(0, 2), (1, 2), (2, 2)]
    assert all(0 <= row["global/accuracy"] <= 1 for row in by_round)


def test_the_final_global_model_is_an_artifact_of_the_servers_run_where_the_switch_says_so(
    stack: Stack, through_server: Done
) -> None:
    (artifact,) = stack.backend().document["artifacts"].values()
    job_id = job_id_in(through_server.text)
    assert (artifact["name"], artifact["type"], artifact["committed"]) == (f"model-{job_id}", "model", True)
    size = (stack.home / "results" / job_id / "models" / "global_model.safetensors").stat().st_size
    (run,) = [run for run in stack.backend().runs() if run["name"] == artifact["run"]]
    assert size in run["uploads"].values()


def test_the_account_says_that_everything_was_delivered(stack: Stack, through_server: Done) -> None:
    account = json.loads((stack.home / "results" / job_id_in(through_server.text) / "tracking.json").read_text(encoding="utf-8"))
    assert set(account["sites"]) == {"server", "site-1", "site-2"}
    for site, counts in account["sites"].items():
        (run,) = [
            run for run in runs_of(stack.backend(), account["job_id"]) if str(run["display_name"]).startswith(f"{site}-cifar10")
        ]
        assert counts["logged"] == counts["received"] == counts["delivered"] == len(rows(run)) > 0
        assert run["summary"]["records/pending"] == 0  # type: ignore[index]
    assert "records delivered, by the backend's count" in through_server.text
    assert account["job_id"] in stack.make("status").text


def test_the_results_hold_models_metrics_and_configuration(stack: Stack, through_server: Done) -> None:
    job_id = job_id_in(through_server.text)
    folder = stack.home / "results" / job_id
    assert (folder / "models" / "global_model.safetensors").stat().st_size > 100_000
    assert (folder / "models" / "best_model.safetensors").exists()
    assert (folder / "models" / "network.py").exists()
    with (folder / "rounds.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert sorted((row["site"], row["round"]) for row in table) == [
        (site, str(n)) for site in ("site-1", "site-2") for n in (0, 1, 2)
    ]
    assert json.loads(next(folder.glob("job/**/meta.json")).read_text(encoding="utf-8"))["min_clients"] == 2
    assert f"job {job_id} completed" in through_server.text
    assert "round 2/2" in through_server.text


def test_a_healthy_round_is_a_few_lines_in_the_logs(stack: Stack, through_server: Done) -> None:
    for service in ("server", "site-1"):
        lines = [line for line in stack.compose("logs", "--no-log-prefix", service).text.splitlines() if line.strip()]
        assert any("round 2/2" in line for line in lines)
        assert len(lines) < 30, "\n".join(lines)
        assert all(line[:4].isdecimal() for line in lines), "\n".join(lines)


def readable_key(stack: Stack, service: str) -> bool:
    return stack.execute(service, "sh", "-c", f"grep -rqs '{PATTERN}' /run/secrets").code == 0


def test_the_key_is_readable_in_the_server_only(stack: Stack, through_server: Done) -> None:
    assert [service for service in SERVICES if readable_key(stack, service)] == ["server"]
    check_key_is_nowhere_else(stack)


def test_metrics_arrive_from_each_site_authenticated_by_its_key(stack: Stack, from_clients: Done) -> None:
    state, job_id = stack.backend(), job_id_in(from_clients.text)
    check_metrics(state, job_id)
    for run in runs_of(state, job_id):
        site = str(run["display_name"]).split("-cifar10")[0]
        assert set(run["auth"]) == {"hospital"}
        assert set(run["ips"]) <= stack.addresses(site)


def test_moving_the_key_recreates_only_the_containers_that_gain_or_lose_it(
    stack: Stack, before_switch: dict[str, str], from_clients: Done
) -> None:
    after = stack.containers()
    unchanged = {service for service in after if after[service] == before_switch.get(service)}
    assert unchanged == {"admin", "gateway", "wandb-backend"}


def test_the_key_is_readable_in_the_sites_only(stack: Stack, from_clients: Done) -> None:
    assert [service for service in SERVICES if readable_key(stack, service)] == ["site-1", "site-2"]
    check_key_is_nowhere_else(stack)


def test_sites_that_stream_still_cannot_reach_each_other(stack: Stack, from_clients: Done) -> None:
    reach = "import socket, sys; socket.create_connection((sys.argv[1], 8002), 3)"
    (address,) = stack.addresses("site-2", "egress-site-2")  # of its network with the server this host knows no address
    tried = stack.execute("site-1", "python", "-c", reach, address)
    assert tried.code != 0
    assert "refused" not in tried.text, "site-2 has answered"
    assert stack.execute("site-1", "python", "-c", "import socket; socket.gethostbyname('site-2')").code != 0


def test_the_server_has_no_egress_while_the_sites_stream(stack: Stack, from_clients: Done) -> None:
    reach = "import socket, sys; socket.create_connection((sys.argv[1], 8970), 3)"
    addresses = stack.addresses("wandb-backend")
    assert any(stack.execute("site-1", "python", "-c", reach, address).code == 0 for address in addresses)
    for address in addresses:
        assert stack.execute("server", "python", "-c", reach, address).code != 0
    masquerade = stack.inspect(f"{stack.name}_published")["Options"]["com.docker.network.bridge.enable_ip_masquerade"]
    assert masquerade == "false"


def check_key_is_nowhere_else(stack: Stack) -> None:
    """Files, environments and command lines of every container, `inspect`, logs, image history and the results."""
    for service in SERVICES:
        files = stack.execute(
            service, "sh", "-c", f"grep -rls '{PATTERN}' /workspace /kit /data /results /tmp /opt/multisite 2>/dev/null"
        )
        assert files.text.strip() == "", (service, files.text)
        processes = stack.execute(
            service, "sh", "-c", f"grep -ls '{PATTERN}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null"
        )
        assert processes.text.strip() == "", (service, processes.text)
        assert KEY not in json.dumps(stack.inspect(stack.containers()[service]))
    assert KEY not in stack.compose("logs").text
    for image in ("control", "site"):
        assert (
            KEY
            not in stack.run(
                "docker", "history", "--no-trunc", f"{stack.name}-{image}:{os.environ.get('IMAGE_TAG') or 'local'}"
            ).text
        )
    results = Path(stack.home / "results")
    assert not [path for path in results.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert KEY not in (stack.home / ".env").read_text(encoding="utf-8").replace(stack.settings["BACKEND_KEYS"], "")


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "no API key"), (WRONG_KEY, "refused the API key"), ("short", "malformed API key")]
)
def test_without_a_usable_key_the_job_completes_offline_and_says_so(stack: Stack, key: str | None, reason: str) -> None:
    before = len(stack.backend().runs())
    stack.write_key(key)
    try:
        done = stack.submit(ROUNDS="1")
    finally:
        stack.write_key(KEY)
    assert done.code == 0, done.text
    assert "records are not delivered" in done.text
    assert "make sync" in done.text
    assert reason in done.text
    if key:
        assert key not in done.text
    assert len(stack.backend().runs()) == before


def test_make_sync_delivers_what_is_pending_once_there_is_a_key_and_can_be_repeated(stack: Stack) -> None:
    stack.write_key(None)
    try:
        done = stack.submit(ROUNDS="1")
    finally:
        stack.write_key(KEY)
    assert done.code == 0, done.text
    job_id = job_id_in(done.text)
    without = stack.make("sync")
    assert without.code != 0
    assert "no API key" in without.text
    assert stack.make("up").code == 0
    for _ in range(2):
        synced = stack.make("sync")
        assert synced.code == 0, synced.text
        for run in runs_of(stack.backend(), job_id):
            assert not run["conflicts"]
        assert len(runs_of(stack.backend(), job_id)) == 3
