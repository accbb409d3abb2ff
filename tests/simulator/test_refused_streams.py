"""The W&B writer with the real client, where the backend refuses requests of a run's rows."""

from __future__ import annotations

import time

from multisite.tracking.records import LogWriter
from tests.simulator.delivery import Site, wait_for
from tests.wandb_backend.client import rows, set_faults

RUN = "job-1-site-1"


def test_a_record_that_a_proxy_takes_in_no_request_is_set_aside_and_every_other_is_delivered(site: Site) -> None:
    set_faults(site.backend.url, largest=300_000)
    site.log(500)
    site.logs["site-1"].log({"text": "x" * 400_000}, 500)
    site.log(500)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 150)
    assert site.values() == list(range(1000))
    account = site.report()["sites"]["site-1"]
    assert (account["delivered"], account["set_aside"]) == (1001, 1)
    assert "HTTP 413" in site.report()["reason"]
    assert "first number 501" in site.report()["reason"]


def test_rows_that_are_too_large_together_are_sent_in_smaller_requests(site: Site) -> None:
    set_faults(site.backend.url, largest=400_000)
    for number in range(40):
        site.logs["site-1"].log({"text": "x" * 30_000, "number": number}, number)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 150)
    assert [row["number"] for row in rows(site.state().run(RUN))] == list(range(40))
    assert site.report()["sites"]["site-1"]["set_aside"] == 0


def test_a_backend_that_takes_not_even_small_requests_is_named_and_nothing_is_set_aside(site: Site) -> None:
    set_faults(site.backend.url, file_stream=413)
    site.logs["site-1"].log({"text": "x" * 100_000}, 0)  # alone, and long: it is no more to blame than the others
    site.log(20)
    wait_for(lambda: "takes no request of this size (HTTP 413)" in site.report()["reason"], 60)
    set_faults(site.backend.url)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 150)
    assert site.values() == list(range(20))
    assert len(rows(site.state().run(RUN))) == 21
    assert site.report()["sites"]["site-1"]["set_aside"] == 0


def test_a_limit_that_an_empty_request_met_ends_no_job_late(site: Site) -> None:
    """W&B's client sends one after 30 s of silence, and does not log that it was taken in the end."""
    site.log(5)
    wait_for(lambda: len(site.values()) == 5 and site.report()["pending"] == 0)
    set_faults(site.backend.url, file_stream=429, reset=2)
    wait_for(lambda: any(request["status"] == 429 for request in site.state().document["requests"]), 60)
    set_faults(site.backend.url)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 60)


def test_a_rate_limit_is_named_and_its_end_is_waited_for(site: Site) -> None:
    """Longer than the time after which a run that stands still is closed."""
    site.log(5)
    wait_for(lambda: len(site.values()) == 5 and site.report()["pending"] == 0)
    other = site.logs["site-2"] = LogWriter(site.job.origin("site-2").log)
    set_faults(site.backend.url, file_stream=429, reset=50, run=RUN)
    began = time.monotonic()
    site.log(5)
    other.log({"other": 1}, 0)
    wait_for(lambda: "takes no more requests for now (HTTP 429)" in site.report()["reason"], 30)
    wait_for(lambda: site.report()["sites"]["site-2"]["delivered"] == 1, 30)
    limited = [request for request in site.state().document["requests"] if request["status"] == 429]
    set_faults(site.backend.url)
    site.end()
    wait_for(lambda: site.report()["state"] == "done" and site.report()["pending"] == 0, 120)
    assert site.values() == list(range(10))
    assert len(limited) == 1
    assert time.monotonic() - began > 45
    assert site.state().run(RUN)["complete"]
