"""The stand-in for the W&B backend: the failures and the delays that it shows when a test asks for them."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.unit.backend_requests import KEY, STREAM, UPSERT, graphql, history, refuses, send, status_of, upsert
from tests.unit.backend_requests import url as url
from tests.wandb_backend.client import (
    BackendState,
    delete_run,
    set_faults,
)


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


def test_a_server_that_counts_nothing_lists_its_runs_all_the_same(url: str) -> None:
    set_faults(url, uncounted=True)
    upsert(url)
    send(url + STREAM, history(0, {"a": 1}))
    assert (listed(url)["historyLineCount"], listed(url)["historyKeys"]) == (0, None)


def test_a_refusal_of_one_runs_stream_leaves_the_others(url: str) -> None:
    set_faults(url, file_stream=403, run="r1")
    assert status_of(url + STREAM, history(0, {"a": 1})) == 403
    assert status_of(url + STREAM.replace("r1", "r2"), history(0, {"a": 1})) == 200


def test_rows_in_a_request_above_the_largest_size_are_refused(url: str) -> None:
    set_faults(url, largest=300)
    assert status_of(url + STREAM, history(0, {"a": "x" * 300})) == 413
    assert status_of(url + STREAM, history(0, {"a": 1})) == 200
