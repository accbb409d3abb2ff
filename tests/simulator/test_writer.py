"""The W&B writer with the real client against the stand-in backend: killed, refused, continued, late."""

from __future__ import annotations

import json
from typing import Any

import pytest

from multisite.tracking.files import save_json
from multisite.tracking.frames import MAX_RECORD_BYTES
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER
from tests.simulator.delivery import KEY, Site, wait_for
from tests.wandb_backend.client import add_rows, delete_run, rename_run, rows, set_faults
from tests.wandb_backend.server import WandbBackend


def test_a_writer_killed_again_and_again_repeats_nothing(site: Site) -> None:
    for _ in range(3):
        site.log(300)
        before = len(site.values())
        wait_for(lambda: len(site.values()) > before)  # noqa: B023
        site.writer().kill()
        site.writer().wait()
    site.log(100)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0)
    assert site.values() == list(range(1000))
    (run,) = site.state().runs()
    assert run["complete"]
    assert not run["conflicts"]


def test_a_run_is_made_as_a_user_of_w_and_b_expects_it(site: Site) -> None:
    site.logs[SERVER].log({"val/accuracy": 0.5, "round": 3}, None)
    site.log(5)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    state = site.state()
    run, server = state.run("site-1-n"), state.run("server-n")
    assert run["group"] == server["group"] == "n-job-1"
    assert run["tags"] == ["t"]
    assert run["config"]["lr"]["value"] == 0.1
    assert run["config"]["site"]["value"] == "site-1"
    assert run["summary"]["records/delivered"] == 5
    assert [(row["value"], row["step"]) for row in rows(run)] == [(n, n) for n in range(5)]
    assert "step" not in rows(server)[0]
    assert rows(server)[0]["round"] == 3
    assert not state.unknown_ops


def test_a_key_that_is_refused_is_said_and_a_good_one_is_found_without_a_restart(site: Site) -> None:
    site.key.write_text("wrong0key0" * 4, encoding="utf-8")
    site.log(20)
    wait_for(lambda: site.report()["state"] == "refused")
    assert "refused the API key" in site.report()["reason"]
    assert KEY not in site.report()["reason"]
    writer = site.writer()
    site.key.write_text(KEY, encoding="utf-8")  # nobody has to ask for another try
    site.end()
    wait_for(lambda: writer.poll() == 0, 50)  # a refused key alone would be tried again after 60 s
    assert site.report()["state"] == "done"
    assert site.values() == list(range(20))


def test_a_refusal_in_the_middle_is_fatal_for_the_client_and_not_for_the_rows(site: Site) -> None:
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    set_faults(site.backend.url, file_stream=403, graphql=403)
    site.log(50)
    wait_for(lambda: site.report()["state"] in ("refused", "stalled"), 90)
    set_faults(site.backend.url)
    site.end()
    wait_for(lambda: site.report()["state"] == "done", 90)
    assert site.values() == list(range(100))


def test_rows_that_come_after_the_job_is_done_are_delivered_too(site: Site) -> None:
    site.log(10)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    late = LogWriter(site.job.origin("site-2").log)
    late.log({"late": 1}, None)
    late.close()
    wait_for(lambda: site.report()["pending"] == 0 and "site-2" in site.report()["sites"])
    assert [row["late"] for row in rows(site.state().run("site-2-n"))] == [1]


def test_a_key_that_expired_before_the_jobs_end_is_the_reason_that_is_said(site: Site) -> None:
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    writer = site.writer()
    set_faults(site.backend.url, file_stream=401, graphql=401)
    site.log(50)
    site.end()
    wait_for(lambda: writer.poll() is not None, 90)
    assert site.report()["state"] == "refused"
    assert "refused the API key" in site.report()["reason"]


def test_names_that_w_and_b_takes_without_an_axis_of_their_own_are_delivered(site: Site) -> None:
    site.logs["site-1"].append(b'[1, 1, {"lr*wd": 1, "value": 7}]')
    site.logs["site-1"].append(b'[1, 1, {"": 1, "value": 8}]')
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    first, second = rows(site.state().run("site-1-n"))
    assert (first["lr*wd"], first["value"], second["value"]) == (1, 7, 8)
    assert site.report()["sites"]["site-1"]["set_aside"] == 0


def test_a_site_whose_run_can_not_be_opened_waits_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B answers 409 for a run that was deleted; here until the job's other site is done."""
    real = WandbBackend._take_in
    deleted = [True]

    def refusing(self: WandbBackend, request: Any) -> Any:
        if deleted[0] and b"upsertBucket" in request.body and b"job-1-site-1" in request.body:
            return 409, {"error": "run job-1-site-1 was previously created and deleted"}
        return real(self, request)

    monkeypatch.setattr(WandbBackend, "_take_in", refusing)
    site.logs["site-2"] = LogWriter(site.job.origin("site-2").log)
    for value in range(100):
        site.log(1)
        site.logs["site-2"].log({"other": value}, value)
    wait_for(lambda: site.report()["sites"]["site-2"]["pending"] == 0, 90)
    assert "site-1 waits" in site.report()["reason"]
    site.writer().kill()  # the next one waits until site-2's count stands still, and site-1's trouble does not end it meanwhile
    site.writer().wait()
    for value in range(100, 120):
        site.logs["site-2"].log({"other": value}, value)
    wait_for(lambda: site.report()["sites"]["site-2"]["pending"] == 0, 90)
    site.end()
    wait_for(lambda: bool(site.state().run("site-2-n")["complete"]), 90)
    deleted[0] = False
    site.spool.sync_file.touch()
    wait_for(lambda: site.report()["pending"] == 0, 90)
    assert site.values() == list(range(100))
    assert [row["other"] for row in rows(site.state().run("site-2-n"))] == list(range(120))


def test_rows_that_somebody_else_adds_to_a_run_are_not_taken_for_ours(site: Site) -> None:
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    site.writer().kill()
    site.writer().wait()
    add_rows(site.backend.url, "job-1-site-1", [{"test_acc": n} for n in range(7)])
    site.log(50)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0)
    assert site.values() == list(range(100))
    history = rows(site.state().run("site-1-n"))
    assert [row["test_acc"] for row in history if "test_acc" in row] == list(range(7))
    assert [row["records/number"] for row in history if "records/number" in row] == list(range(1, 101))


def test_a_job_from_before_rows_carried_numbers_goes_on_behind_its_lines(site: Site) -> None:
    """`job.json` as that version wrote it: without `attempt`; 30 of its rows are at the backend."""
    settings = {"wandb": {"project": "p", "name": "n"}, "axes": {}, "owner": SERVER}
    save_json(site.job.settings_file, settings)
    add_rows(site.backend.url, "job-1-site-1", [{"value": n} for n in range(30)], project="p", display_name="site-1-n")
    site.log(60)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0)
    assert site.values() == list(range(60))


@pytest.mark.parametrize("shell", ["", "from the shell"])
def test_a_run_that_somebody_renamed_keeps_its_name(site: Site, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("WANDB_NAME", shell)
    site.log(10)
    wait_for(lambda: len(site.values()) == 10)
    rename_run(site.backend.url, "job-1-site-1", "my best run")
    site.writer().kill()
    site.writer().wait()
    site.log(10)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0)
    assert site.state().run("job-1-site-1")["display_name"] == "my best run"


def test_a_metric_called_step_is_kept_beside_the_step_of_the_call(site: Site) -> None:
    site.logs["site-1"].log({"step": 5, "value": 1}, 9)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert rows(site.state().run("site-1-n"))[0]["step"] == 5


def test_a_sweep_that_the_writer_runs_under_does_not_take_its_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    site.log(20)
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert [run["name"] for run in site.state().runs()] == ["job-1-site-1"]


def test_counts_that_lag_repeat_no_row_when_a_writer_is_killed(site: Site) -> None:
    """W&B's cloud counts rows some seconds late; a client that goes on with a run reads the same late count."""
    set_faults(site.backend.url, lag=8)
    site.log(300)
    wait_for(lambda: len(site.values()) == 300)
    site.writer().kill()
    site.writer().wait()
    site.log(50)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(350))
    assert not site.state().run("site-1-n")["conflicts"]


def test_a_run_that_was_deleted_in_the_page_is_named_and_the_jobs_other_site_goes_on(site: Site) -> None:
    site.logs["site-2"] = LogWriter(site.job.origin("site-2").log)
    site.log(20)
    wait_for(lambda: len(site.values()) == 20)
    delete_run(site.backend.url, "job-1-site-1")
    site.log(20)
    for value in range(100):
        site.logs["site-2"].log({"other": value}, value)
    site.end()
    wait_for(lambda: "site-1: " in site.report()["reason"] and "run was deleted (HTTP 409" in site.report()["reason"], 180)
    assert [row["other"] for row in rows(site.state().run("site-2-n"))] == list(range(100))
    assert site.report()["sites"]["site-1"]["logged"] == 40


def test_the_longest_texts_that_a_record_takes_arrive(site: Site) -> None:
    """W&B's client drops a row that is too long for it, and says nothing to its caller."""
    texts = ["é" * 400_000, *(text * ((MAX_RECORD_BYTES - 100) // len(json.dumps(text)[1:-1])) for text in 'x<"é😀')]
    for text in texts:
        site.logs["site-1"].log({"value": text}, 1)
    site.end()
    wait_for(lambda: site.report()["state"] in ("done", "stalled"))
    assert site.values() == texts
