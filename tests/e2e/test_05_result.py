"""The default job, on real CIFAR-10."""

from __future__ import annotations

import re

import pytest

from tests.e2e.stack import Stack

ACCURACY = 0.75  # of the default job, on two sites


@pytest.mark.real_cifar10
def test_the_default_job_reaches_75_percent(stack: Stack) -> None:
    done = stack.make("submit", DATA_LIMIT="")
    assert done.code == 0, done.text
    match = re.search(r"final global model: accuracy (0\.\d+) on cifar10", done.text)
    assert match, done.text
    assert float(match[1]) >= ACCURACY


def test_synthetic_data_is_announced_in_capitals_wherever_a_result_is_shown(stack: Stack) -> None:
    done = stack.submit(DATASET="synthetic", SEED="5", ROUNDS="1")
    assert done.code == 0, done.text
    assert "SYNTHETIC DATA STANDS IN FOR CIFAR-10" in done.text
    assert re.search(r"final global model: accuracy 0\.\d+ on SYNTHETIC DATA, NOT CIFAR-10", done.text)
    newest = max(stack.backend().runs(), key=lambda run: str(run["history_posts"][-1]["time"] if run["history_posts"] else ""))
    assert newest["config"]["dataset"]["value"] == "SYNTHETIC"


def test_containers_are_healthy_when_they_have_been_up_for_a_while(stack: Stack) -> None:
    def healthy() -> bool:
        return all(
            stack.inspect(stack.containers()[name])["State"]["Health"]["Status"] == "healthy"
            for name in ("server", "site-1", "site-2")
        )

    stack.wait_for(healthy, "server and sites healthy")
