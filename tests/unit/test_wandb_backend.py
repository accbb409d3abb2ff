"""The stand-in for the W&B backend: what it refuses, what it records, and the failures it shows on order."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.wandb_backend.client import (
    BackendState,
    config_values,
    delete_run,
    distinct_rows,
    missing_lines,
    reset,
    set_faults,
    wait_until,
)
from tests.wandb_backend.keys import KnownKeys
from tests.wandb_backend.server import WandbBackend

KEY = "k" * 40
STRANGER = "s" * 40
STREAM = "/files/team/fl/r1/file_stream"
UPSERT = "mutation UpsertBucket($name: String) { upsertBucket }"


@pytest.fixture
def url() -> Iterator[str]:
    backend = WandbBackend(("127.0.0.1", 0), KnownKeys({KEY: "server"}))
    backend.start()
    yield backend.url
    backend.stop()


def send(url: str, body: bytes | None = None, key: str | None = KEY, method: str | None = None, **headers: str) -> Any:
    """Send one request as the SDK does; returns the decoded answer."""
    if key is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Request(url, data=body, headers=named, method=method), timeout=10) as response:
        return json.loads(response.read())


def test_a_backend_that_refuses_for_a_while_listens_no_more_and_comes_back_with_everything() -> None:
    command = [sys.executable, "-m", "tests.wandb_backend", "--port", "0", "--keys", f"{KEY}=server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as backend:
        try:
            assert backend.stdout is not None
            url = backend.stdout.readline().split()[2]
            send(url + "/graphql", json.dumps({"query": UPSERT, "variables": {"name": "r1"}}).encode())
            set_faults(url, refuse=1.0)
            deadline = time.monotonic() + 10
            while not refuses("127.0.0.1", int(url.rpartition(":")[2])):
                assert time.monotonic() < deadline, "the port never closed"
            assert [run["name"] for run in BackendState.fetch(url).runs()] == ["r1"]
        finally:
            backend.terminate()


def refuses(host: str, port: int) -> bool:
    """Whether nothing listens; a connection that was waiting while the port closed is reset, which is not yet that."""
    try:
        socket.create_connection((host, port), 1).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def status_of(url: str, body: bytes | None = None, key: str | None = KEY, method: str | None = None) -> int:
    try:
        send(url, body, key, method)
    except HTTPError as error:
        return error.code
    return 200


def graphql(url: str, query: str, key: str | None = KEY, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    return send(f"{url}/graphql", body, key)["data"]


def upsert(url: str, name: str = "r1", **variables: Any) -> Any:
    return graphql(url, UPSERT, name=name, entity="team", project="fl", **variables)


def history(offset: int, *rows: dict[str, Any], **more: Any) -> bytes:
    content = [json.dumps(row) for row in rows]
    return json.dumps({"files": {"wandb-history.jsonl": {"offset": offset, "content": content}}, **more}).encode()


def test_a_request_with_an_unknown_key_is_refused_and_recorded_without_the_key(url: str) -> None:
    assert status_of(f"{url}/graphql", b"{}", key=STRANGER) == 401
    (rejected,) = BackendState.fetch(url).rejected
    assert rejected["ip"] == "127.0.0.1"
    assert rejected["path"] == "/graphql"
    assert rejected["presented"] == "unknown:" + hashlib.sha256(STRANGER.encode()).hexdigest()[:12]


@pytest.mark.parametrize("header", [None, "Basic", "Basic %%%", "Bearer", f"Bearer {STRANGER}", STRANGER, "Basic YQ=="])
def test_a_missing_or_malformed_authorization_is_refused(url: str, header: str | None) -> None:
    with pytest.raises(HTTPError) as refused:
        send(url + STREAM, history(0, {"a": 1}), key=None, **({"Authorization": header} if header else {}))
    assert refused.value.code == 401
    assert BackendState.fetch(url).runs() == []
    assert STRANGER not in json.dumps(BackendState.fetch(url).document)


def test_state_never_holds_a_key(url: str) -> None:
    upsert(url, displayName="site-1", config=json.dumps({"oops": {"value": KEY}}))
    send(url + STREAM, history(0, {"oops": KEY}))
    status_of(f"{url}/files/{KEY}", b"", method="PUT")
    status_of(f"{url}/graphql", b"{}", key=STRANGER)
    text = json.dumps(BackendState.fetch(url).document)
    assert KEY not in text
    assert STRANGER not in text


def test_a_key_in_a_body_or_a_path_is_recorded_as_a_leak(url: str) -> None:
    upsert(url, config=json.dumps({"oops": {"value": KEY}}))
    status_of(f"{url}/files/{KEY}", b"", method="PUT")
    state = BackendState.fetch(url)
    assert [leak["path"] for leak in state.leaks] == ["/graphql", "/files/<key:server>"]
    assert state.leaks[0]["labels"] == ["server"]
    assert config_values(state.run("r1")) == {"oops": "<key:server>"}


def test_a_run_is_recorded_with_its_names_config_and_caller(url: str) -> None:
    config = json.dumps({"rounds": {"value": 3}, "_wandb": {"value": {}}})
    answer = upsert(url, displayName="site-1", groupName="job", jobType="client", tags=["a"], config=config)
    upsert(url, summaryMetrics=json.dumps({"acc": 0.5}))
    assert answer["upsertBucket"]["inserted"] is True
    run = BackendState.fetch(url).run("site-1", group="job", job_type="client")
    assert (run["entity"], run["project"], run["name"], run["tags"]) == ("team", "fl", "r1", ["a"])
    assert config_values(run) == {"rounds": 3}
    assert run["summary"] == {"acc": 0.5}
    assert run["auth"] == {"server": 2}
    assert run["ips"] == {"127.0.0.1": 2}


def test_rows_come_back_decoded_and_in_line_order(url: str) -> None:
    send(url + STREAM, history(9, {"round": 9}, {"round": 10}))
    send(url + STREAM, history(0, *({"round": n} for n in range(9))))
    state = BackendState.fetch(url)
    assert [row["round"] for row in state.rows("r1")] == list(range(11))
    assert missing_lines(state.run("r1")) == []


def test_rows_that_were_appended_again_count_once(url: str) -> None:
    send(url + STREAM, history(0, {"round": 0, "a": 1}, {"round": 1, "a": 1}))
    send(url + STREAM, history(2, {"a": 1, "round": 0}, {"a": 1, "round": 1}, {"round": 2, "a": 1}))
    state = BackendState.fetch(url)
    assert len(state.rows("r1")) == 5
    assert [row["round"] for row in distinct_rows(state.run("r1"))] == [0, 1, 2]


def test_a_gap_in_the_history_is_named(url: str) -> None:
    send(url + STREAM, history(0, {"a": 0}))
    send(url + STREAM, history(3, {"a": 3}))
    assert missing_lines(BackendState.fetch(url).run("r1")) == [1, 2]


def test_a_retried_post_repeats_no_row(url: str) -> None:
    for _ in range(2):
        send(url + STREAM, history(0, {"a": 1}, {"a": 2}))
    state = BackendState.fetch(url)
    assert state.rows("r1") == [{"a": 1}, {"a": 2}]
    assert state.run("r1")["duplicate_lines"] == 2
    assert state.run("r1")["conflicts"] == []


def test_another_row_at_a_known_offset_is_a_conflict(url: str) -> None:
    send(url + STREAM, history(0, {"a": 1}))
    send(url + STREAM, history(0, {"a": 2}))
    (conflict,) = BackendState.fetch(url).run("r1")["conflicts"]
    assert conflict == {"stream": "history", "line": 0, "was": '{"a": 1}', "now": '{"a": 2}'}


def test_a_finished_run_is_complete_with_its_exit_code(url: str) -> None:
    send(url + STREAM, history(0, {"a": 1}))
    assert BackendState.fetch(url).run("r1")["complete"] is False
    send(url + STREAM, json.dumps({"complete": True, "exitcode": 0}).encode())
    run = BackendState.fetch(url).run("r1")
    assert (run["complete"], run["exit_code"]) == (True, 0)


def test_a_compressed_body_is_read(url: str) -> None:
    send(url + STREAM, gzip.compress(history(0, {"a": 1})), Content_Encoding="gzip")
    assert BackendState.fetch(url).rows("r1") == [{"a": 1}]


def test_a_resumed_run_gets_the_number_of_lines_that_are_known(url: str) -> None:
    query = "query RunResumeStatus($name: String!) { model }"
    where = {"entity": "team", "project": "fl", "name": "r1"}
    assert graphql(url, query, **where)["model"]["bucket"] is None
    send(url + STREAM, history(0, {"a": 1}, {"a": 2}))
    assert graphql(url, query, **where)["model"]["bucket"]["historyLineCount"] == 2


RUNS = "query Runs($filters: JSONString) { project { runs { edges { node { historyLineCount historyKeys } } } } }"


def listed(url: str) -> Any:
    found = graphql(url, RUNS, entity="team", project="fl", filters=json.dumps({"name": {"$in": ["r1"]}}))
    (edge,) = found["project"]["runs"]["edges"]
    return edge["node"]


def test_a_listing_has_the_last_value_of_every_metric_of_a_run(url: str) -> None:
    upsert(url)
    send(url + STREAM, history(0, {"_step": 0, "a": 1}, {"_step": 1, "a": 2, "b": 5}))
    node = listed(url)
    assert node["historyLineCount"] == 2
    assert node["historyKeys"]["lastStep"] == 1
    assert {name: keys["previousValue"] for name, keys in node["historyKeys"]["keys"].items()} == {"_step": 1, "a": 2, "b": 5}


def test_counts_that_lag_come_later_in_a_listing_and_for_a_resume(url: str) -> None:
    upsert(url)
    set_faults(url, lag=0.5)
    send(url + STREAM, history(0, {"a": 1}))
    assert listed(url)["historyLineCount"] == 0
    resume = "query RunResumeStatus { model { bucket { historyLineCount } } }"
    assert graphql(url, resume, entity="team", project="fl", name="r1")["model"]["bucket"]["historyLineCount"] == 0
    deadline = time.monotonic() + 10
    while not listed(url)["historyLineCount"]:
        assert time.monotonic() < deadline, "the row was never counted"


def test_rows_of_a_resumed_run_can_be_counted_at_its_end(url: str) -> None:
    upsert(url)
    send(url + STREAM, history(0, {"a": 1}))
    set_faults(url, rows_at_end=1)
    graphql(url, "query RunResumeStatus { model }", entity="team", project="fl", name="r1")
    send(url + STREAM, history(1, {"a": 2}))
    assert listed(url)["historyLineCount"] == 1
    send(url + STREAM, history(2, complete=True, exitcode=0))
    assert listed(url)["historyLineCount"] == 2


def test_the_id_of_a_deleted_run_can_not_be_used_again(url: str) -> None:
    upsert(url)
    delete_run(url, "r1")
    body = json.dumps({"query": UPSERT, "variables": {"name": "r1", "entity": "team", "project": "fl"}}).encode()
    assert status_of(f"{url}/graphql", body) == 409
    assert status_of(url + STREAM, history(0, {"a": 1})) == 409


def test_a_server_without_the_query_refuses_the_field_by_name(url: str) -> None:
    upsert(url)
    set_faults(url, no_query=1)
    with pytest.raises(HTTPError) as refused:
        listed(url)
    assert refused.value.code == 400
    assert "Cannot query field" in refused.value.read().decode()


def test_a_rate_limit_says_when_it_is_over(url: str) -> None:
    set_faults(url, graphql=429, reset=7)
    with pytest.raises(HTTPError) as limited:
        upsert(url)
    assert limited.value.code == 429
    assert limited.value.headers["RateLimit-Reset"] == limited.value.headers["Retry-After"] == "7"


def test_an_upload_needs_no_key_and_leaves_its_size(url: str) -> None:
    upsert(url)
    query = "mutation CreateRunFiles { createRunFiles }"
    answer = graphql(url, query, entity="team", project="fl", run="r1", files=["media/a b.txt"])
    (file,) = answer["createRunFiles"]["files"]
    assert send(file["uploadUrl"], b"12345", key=None, method="PUT") == {}
    assert BackendState.fetch(url).run("r1")["uploads"] == {"media/a b.txt": 5}


def test_an_upload_for_an_unknown_run_is_refused(url: str) -> None:
    assert status_of(f"{url}/_storage/team/fl/nobody/a.txt", b"1", key=None, method="PUT") == 404


def test_an_unknown_operation_is_recorded_and_answered_empty(url: str) -> None:
    assert graphql(url, "mutation DeleteRun { deleteRun }") == {}
    assert list(BackendState.fetch(url).unknown_ops) == ["DeleteRun"]


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"variables": {}}', b'{"query": "mutation UpsertBucket"}'])
def test_a_malformed_graphql_body_is_a_bad_request(url: str, body: bytes) -> None:
    assert status_of(f"{url}/graphql", body) == 400
    assert status_of(f"{url}/_stub/health") == 200


def test_an_unreadable_body_is_a_bad_request(url: str) -> None:
    with pytest.raises(HTTPError) as refused:
        send(url + STREAM, b"not gzip", Content_Encoding="gzip")
    assert refused.value.code == 400


@pytest.mark.parametrize(("kind", "path"), [("graphql", "/graphql"), ("file_stream", STREAM)])
def test_a_fault_is_answered_until_it_is_cleared(url: str, kind: str, path: str) -> None:
    body = history(0, {"a": 1}) if kind == "file_stream" else json.dumps({"query": "query Viewer"}).encode()
    set_faults(url, **{kind: 503})
    assert [status_of(url + path, body) for _ in range(2)] == [503, 503]
    assert BackendState.fetch(url).runs() == []
    set_faults(url)
    assert status_of(url + path, body) == 200


def test_a_dropped_answer_is_taken_in_all_the_same(url: str) -> None:
    set_faults(url, drop=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        send(url + STREAM, history(0, {"a": 1}))
    set_faults(url)
    send(url + STREAM, history(0, {"a": 1}))
    state = BackendState.fetch(url)
    assert state.rows("r1") == [{"a": 1}]
    assert state.run("r1")["duplicate_lines"] == 1


@pytest.mark.parametrize("order", [{"graphq": 503}, {"graphql": 200}, {"delay": -1}, {"graphql": "soon"}, []])
def test_a_fault_that_makes_no_sense_is_refused(url: str, order: Any) -> None:
    assert status_of(f"{url}/_stub/fault", json.dumps(order).encode()) == 400


def test_a_reset_forgets_records_and_faults(url: str) -> None:
    upsert(url)
    set_faults(url, graphql=503)
    reset(url)
    assert BackendState.fetch(url).runs() == []
    assert upsert(url)["upsertBucket"]["inserted"] is True


def test_runs_are_found_by_group_and_job_type(url: str) -> None:
    for name, group, job_type in (("r1", "g1", "client"), ("r2", "g1", "server"), ("r3", "g2", "client")):
        upsert(url, name, groupName=group, jobType=job_type)
    state = BackendState.fetch(url)
    assert [run["name"] for run in state.runs(group="g1")] == ["r1", "r2"]
    assert [run["name"] for run in state.runs(group="g1", job_type="client")] == ["r1"]
    with pytest.raises(LookupError, match="0 runs named 'r4'"):
        state.run("r4")


def test_waiting_gives_up_in_time(url: str) -> None:
    assert wait_until(url, lambda state: not state.runs(), timeout_s=5).runs() == []
    with pytest.raises(TimeoutError):
        wait_until(url, lambda state: bool(state.runs()), timeout_s=0)


def test_keys_come_from_a_file_and_from_the_command_line(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys"
    keys_file.write_text(f"# sites\n\n{KEY}=site-1\n", encoding="utf-8")
    keys = KnownKeys.load(keys_file, f"{STRANGER}=site-2")
    assert len(keys) == 2
    assert [keys.identify(f"Bearer {key}", "ip").label for key in (KEY, STRANGER)] == ["site-1", "site-2"]
