"""The W&B writer with the real client against backends that stand still, count late, can't be asked, or take no model."""

from __future__ import annotations

import pytest

from multisite.tracking.files import load_json, save_json
from multisite.tracking.records import LogWriter
from multisite.tracking.spool import SERVER
from tests.simulator.delivery import Site, wait_for
from tests.wandb_backend.client import add_rows, rows, set_faults
from tests.wandb_backend.state import JsonObject, RunRecord

RUN = "job-1-site-1"


def test_a_run_whose_stream_was_refused_goes_on_while_the_jobs_other_site_makes_progress(site: Site) -> None:
    """W&B's client gives a run up for good after one 403; every other run of the same process goes on."""
    other = site.logs["site-2"] = LogWriter(site.job.origin("site-2").log)
    site.log(20)
    other.log({"other": 0}, 0)
    wait_for(lambda: len(site.values()) == 20 and site.report()["pending"] == 0)
    writer = site.writer()
    set_faults(site.backend.url, file_stream=403, run=RUN)
    site.log(20)
    refused = len([request for request in site.state().document["requests"] if request["status"] == 403])
    wait_for(lambda: len([r for r in site.state().document["requests"] if r["status"] == 403]) > refused)
    set_faults(site.backend.url)
    values = 1

    def delivered() -> bool:
        nonlocal values
        other.log({"other": values}, values)
        values += 1
        return len(site.values()) == 40

    wait_for(delivered, 120)
    assert site.writer() is writer
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0)
    assert site.values() == list(range(40))
    assert [row["other"] for row in rows(site.state().run("site-2-n"))] == list(range(values))


def test_rows_of_a_resumed_run_that_are_counted_at_its_end_arrive_once(site: Site) -> None:
    set_faults(site.backend.url, rows_at_end=True)
    site.log(30)
    wait_for(lambda: site.report()["pending"] == 0)
    site.writer().kill()
    site.writer().wait()
    site.log(30)
    wait_for(lambda: site.report()["pending"] == 0, 120)  # the job goes on: the run was finished to learn what it has
    site.log(30)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(90))
    assert not site.state().run(RUN)["conflicts"]
    assert site.report()["sites"]["site-1"]["unconfirmed"] == 0


@pytest.mark.parametrize("fault", ["no_query", "uncounted"])
def test_rows_at_a_backend_that_can_not_be_asked_are_sent_and_said_to_be_unconfirmed(site: Site, fault: str) -> None:
    set_faults(site.backend.url, **{fault: 1.0})
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    site.writer().kill()
    site.writer().wait()
    site.log(50)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(100))
    assert site.report()["sites"]["site-1"]["unconfirmed"] == 100


def test_rows_that_a_backend_which_can_not_be_asked_refuses_are_not_taken_for_sent(site: Site) -> None:
    set_faults(site.backend.url, no_query=True, file_stream=403)
    site.log(50)
    site.end()
    wait_for(lambda: site.report()["state"] == "refused", 90)
    assert site.report()["sites"]["site-1"]["delivered"] == 0
    set_faults(site.backend.url, no_query=True)
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(50))


def test_rows_that_somebody_else_adds_at_a_backend_that_can_not_be_asked_are_not_taken_for_ours(site: Site) -> None:
    set_faults(site.backend.url, no_query=True)
    site.log(50)
    wait_for(lambda: len(site.values()) == 50)
    site.writer().kill()
    site.writer().wait()
    add_rows(site.backend.url, RUN, [{"test_acc": n} for n in range(7)])
    site.log(50)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(100))


def test_rows_that_a_backend_refuses_are_not_taken_for_unconfirmed_ones(site: Site) -> None:
    """A client whose stream was refused finishes without an error too."""
    set_faults(site.backend.url, file_stream=403)
    site.log(50)
    wait_for(lambda: site.report()["state"] == "refused", 90)
    wait_for(lambda: site.writer() and site.writer().poll() is not None, 90)
    assert site.report()["sites"]["site-1"]["delivered"] == 0
    set_faults(site.backend.url)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(50))
    assert site.report()["sites"]["site-1"]["unconfirmed"] == 0


@pytest.mark.parametrize(("ended", "exit_code"), [("completed", 0), ("failed", 1), ("aborted", 255), ("", 1)])
def test_a_run_ends_as_its_job_did(site: Site, ended: str, exit_code: int) -> None:
    site.log(5)
    wait_for(lambda: len(site.values()) == 5)
    save_json(site.job.settings_file, {**load_json(site.job.settings_file), "ended": ended})
    site.end()
    wait_for(lambda: site.report()["state"] == "done")
    assert site.state().run(RUN)["exit_code"] == exit_code


def test_a_run_that_could_not_be_finished_is_finished_when_the_backend_is_back(site: Site) -> None:
    save_json(site.job.settings_file, {**load_json(site.job.settings_file), "ended": "aborted"})
    site.log(20)
    wait_for(lambda: site.report()["pending"] == 0 and len(site.values()) == 20)
    set_faults(site.backend.url, file_stream=503)
    site.end()
    wait_for(lambda: "could not be finished" in site.report()["reason"], 90)
    assert site.report()["pending"] == 0
    assert site.report()["unfinished"]
    set_faults(site.backend.url)
    wait_for(lambda: site.report()["state"] == "done" and not site.report()["unfinished"], 120)
    run = site.state().run(RUN)
    assert (run["complete"], run["exit_code"], run["summary"]["records/delivered"]) == (True, 255, 20)
    assert site.values() == list(range(20))


def test_a_model_that_could_not_be_uploaded_is_tried_again_and_every_row_is_delivered(site: Site) -> None:
    save_json(site.job.settings_file, {**load_json(site.job.settings_file), "artifact": True, "ended": "completed"})
    site.logs[SERVER].log({"round": 1}, None)
    site.log(5)
    wait_for(lambda: site.report()["pending"] == 0)
    set_faults(site.backend.url, storage=403)
    site.job.model_file.write_bytes(b"weights" * 1000)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and "the model is not uploaded" in site.report()["reason"], 120)
    assert site.report()["pending"] == 0
    set_faults(site.backend.url)
    wait_for(lambda: not site.job.model_file.exists(), 120)
    wait_for(lambda: site.report()["state"] == "done" and not site.report()["reason"])
    assert site.values() == list(range(5))
    artifacts = site.state().document["artifacts"].values()
    assert [artifact["name"] for artifact in artifacts if artifact["committed"]] == ["model-job-1"]


def test_a_summary_never_has_the_number_of_a_row_that_did_not_come_with_it_or_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the backend can't be asked, a writer that follows a dead one goes on behind the number in the summary."""
    early, take = [], RunRecord.stream

    def checked(run: RunRecord, post: JsonObject) -> None:
        take(run, post)
        said = (run.summary or {}).get("records/number", 0)
        if said > len(run.history):
            early.append((run.name, said))

    monkeypatch.setattr(RunRecord, "stream", checked)
    for number in range(2, 30):
        site.logs[f"site-{number}"] = log = LogWriter(site.job.origin(f"site-{number}").log)
        for step in range(50):
            log.log({"value": step}, step)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert early == []
