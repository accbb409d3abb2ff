"""Fixtures of the patches' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.client.in_process.api import InProcessClientAPI
from nvflare.fuel.f3.sfm.conn_manager import ConnManager

from multisite import nvflare_patches

REPLACED = (  # everything that the patches set in NVFlare
    (in_process_backend, "_RESULT_POLL_INTERVAL"),
    (ConnManager, "process_frame"),
    (ConnManager, "update_endpoint"),
    (InProcessClientAPI, "log"),
)


@pytest.fixture(scope="package", autouse=True)
def _leaves_nvflare_as_it_was() -> Iterator[None]:
    before = [getattr(owner, name) for owner, name in REPLACED]
    yield
    assert [getattr(owner, name) for owner, name in REPLACED] == before, "a test has left a patch in NVFlare"


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Applies the patches that PATCHES names, for this test alone."""

    def apply(setting: str) -> None:
        assert nvflare_patches.apply(setting) == list(nvflare_patches.chosen(setting))

    for owner, name in REPLACED:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return apply
