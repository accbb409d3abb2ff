"""What the console prints."""

from __future__ import annotations

import math
from typing import Any

import pytest

from multisite.console import report


def row(round: int, site: str, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"round": round, "site": site, "accuracy": accuracy, "loss": 1.0, "dataset": "cifar10", **more}


TRAINED = {"train_loss": 1.5, "train_accuracy": 0.4, "train_seconds": 2.04, "examples": 25_000.0}


def test_a_tables_columns_are_aligned_two_spaces_apart() -> None:
    text = report.table(("site", "n"), [("site-1", 5), ("a-longer-name", 123)])
    assert text.splitlines() == ["site           n", "site-1         5", "a-longer-name  123"]


def test_a_table_has_no_spaces_at_line_ends() -> None:
    lines = report.table(("a", "b"), [("x", ""), ("y", "long")]).splitlines()
    assert lines == [line.rstrip() for line in lines]


def test_a_table_without_rows_is_its_header() -> None:
    assert report.table(("job", "status"), []) == "job  status"


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (9.9, "0:09"), (187, "3:07"), (3600, "60:00")])
def test_a_duration_is_minutes_and_seconds(seconds: float, shown: str) -> None:
    assert report.clock(seconds) == shown


def test_a_progress_line_says_round_site_loss_accuracy_and_the_time_left() -> None:
    line = report.progress_line(row(1, "site-2", 0.5, **TRAINED), rounds=4, elapsed=20.0)
    assert line == "[0:20] round 2/4  site-2: loss 1.500, global accuracy 0.5000 before it, about 0:20 left"


def test_the_final_evaluations_line_has_no_time_left() -> None:
    line = report.progress_line(row(4, "site-1", 0.625), rounds=4, elapsed=61.0)
    assert line == "[1:01] final      site-1: global accuracy 0.6250"


def test_a_site_that_leaves_out_its_training_does_not_make_a_round_the_final_one() -> None:
    assert "round 2/4" in report.progress_line(row(1, "site-1", 0.9), rounds=4, elapsed=20.0)


def test_a_progress_line_without_accuracy_says_so() -> None:
    assert "accuracy nan" in report.progress_line({"round": 0, "site": "site-1"}, 1, 1.0)


def test_a_site_that_sends_no_number_where_one_belongs_breaks_no_line() -> None:
    odd = row(0, "site-1", 0.5, train_loss="low", train_seconds={}, examples=None)
    odd["accuracy"] = True
    assert report.progress_line(odd, 4, 1.0).endswith("loss nan, global accuracy nan before it, about 0:03 left")
    assert report.summary([odd]).splitlines()[1].split() == ["0", "nan", "1.0000", "nan", "nan", "s", "1"]
    assert "e+" not in report.progress_line(row(0, "site-1", 1e300), 4, 1.0)


def test_a_cell_that_is_absurdly_long_does_not_make_the_table_so() -> None:
    assert max(map(len, report.table(("site",), [("x" * 10_000,), ("y",)]).splitlines())) < 250


def test_the_summary_has_a_line_a_round_with_means_over_sites() -> None:
    rows = [
        row(0, "site-1", 0.1, **TRAINED),
        row(0, "site-2", 0.2, **{**TRAINED, "train_loss": 2.5, "train_seconds": 3.0}),
        row(1, "site-2", 0.7),
        row(1, "site-1", 0.5),
    ]
    header, first, final = report.summary(rows).splitlines()
    assert header.split("  ")[0] == "rounds done"
    assert first.split() == ["0", "0.1500", "1.0000", "2.0000", "3.0", "s", "2"]
    assert final.split() == ["1", "0.6000", "1.0000", "-", "-", "2"]


def test_the_summary_counts_the_sites_that_reported() -> None:
    lines = report.summary([row(0, "site-1", 0.1), row(0, "site-2", 0.1), row(1, "site-1", 0.1)]).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["2", "1"]


def test_the_summary_is_in_the_order_of_rounds() -> None:
    lines = report.summary([row(number, "site-1", 0.1) for number in (10, 2, 0)]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0", "2", "10"]


def test_a_mean_skips_those_without_a_value() -> None:
    assert report.mean([{"a": 1}, {}, {"a": 3}], "a") == 2.0
    assert math.isnan(report.mean([{}], "a"))


def test_synthetic_data_is_named_in_capitals_even_if_one_site_alone_has_it() -> None:
    rows = [row(0, "site-1", 0.1), row(0, "site-2", 0.1, dataset="synthetic")]
    assert report.datasets(rows) == "SYNTHETIC DATA, NOT CIFAR-10"


def test_datasets_are_named_once_each() -> None:
    rows = [row(0, "site-1", 0.1), row(1, "site-1", 0.1), row(0, "site-2", 0.1, dataset="own")]
    assert report.datasets(rows) == "cifar10, own"
    assert report.datasets([{"dataset": ""}, {}]) == report.datasets([]) == "unknown data"


def test_a_site_that_does_not_say_what_it_trained_on_is_not_passed_over() -> None:
    assert report.datasets([row(0, "site-1", 0.1), row(0, "site-2", 0.1, dataset="")]) == "cifar10, unknown data"


def tracking(state: str = "done", reason: str = "", refused: int = 0, **pending: int) -> dict[str, Any]:
    sites = {
        site.replace("_", "-"): {"logged": 10, "received": 9, "delivered": 10 - left, "pending": left, "refused": refused}
        for site, left in pending.items()
    }
    return {"state": state, "reason": reason, "sites": sites}


def test_a_complete_account_says_whose_count_it_is() -> None:
    lines = report.account_lines(tracking(site_1=0, site_2=0))
    assert lines[0].split() == ["metrics", "of", "logged", "received", "delivered", "pending"]
    assert lines[1].split() == ["site-1", "10", "9", "10", "0"]
    assert lines[-1] == "W&B: all 20 records delivered, by the backend's count"


def test_rows_that_the_backend_was_not_asked_for_are_not_said_to_be_confirmed() -> None:
    account = tracking(site_1=0, site_2=0)
    account["sites"]["site-1"]["unconfirmed"] = 10
    assert report.account_lines(account)[-1] == (
        "W&B: all 20 records sent, 10 of them not confirmed: the backend can't be asked for its rows"
    )


def test_a_job_whose_metrics_are_not_all_delivered_says_why_and_names_the_command() -> None:
    lines = report.account_lines(tracking("offline", "no API key", site_1=4, site_2=0))
    assert lines[-1] == "W&B: 4 records are not delivered (offline: no API key); they are kept. Next: make sync"


def test_what_a_full_disk_cost_is_in_capitals() -> None:
    said = "REFUSED METRICS: 3 on site-1: a full disk, or values that are none. Next: docker compose logs site-1"
    assert said in report.account_lines(tracking(refused=3, site_1=0))


def test_a_job_without_an_account_says_so() -> None:
    assert report.account_lines({}) == ["metrics: the job left no account; next: make status"]
