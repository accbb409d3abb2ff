"""The stand-in for the W&B backend: what it refuses, and what it records."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.unit.backend_requests import KEY, STRANGER, STREAM, graphql, history, send, status_of, upsert
from tests.unit.backend_requests import url as url
from tests.wandb_backend.client import (
    BackendState,
    config_values,
    distinct_rows,
    missing_lines,
    reset,
    set_faults,
    wait_until,
)
from tests.wandb_backend.keys import KnownKeys


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
