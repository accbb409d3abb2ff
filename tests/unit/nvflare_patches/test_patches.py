"""Which patches are applied: the chosen ones, to the NVFlare that they were written for, and nothing beyond what they say."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from multisite import nvflare_patches
from multisite.nvflare_patches import client_api_poll, early_frames
from tests.unit.nvflare_patches.conftest import REPLACED

PACKAGE = Path(nvflare_patches.__path__[0])


@pytest.mark.parametrize(
    ("setting", "names"),
    [("", nvflare_patches.NAMES), ("all", nvflare_patches.NAMES), ("none", ()), ("early_frames", ("early_frames",))],
)
def test_patches_are_chosen_by_name(setting: str, names: tuple[str, ...]) -> None:
    assert nvflare_patches.chosen(setting) == names


def test_an_unknown_patch_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match="PATCHES=early_frame: 'early_frame' is no patch; next: all, none, or some of client_api_poll"
    ):
        nvflare_patches.apply("early_frame")


def test_every_module_of_the_package_is_a_patch_that_can_be_chosen() -> None:
    assert sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__") == sorted(nvflare_patches.NAMES)


@pytest.mark.parametrize("name", nvflare_patches.NAMES)
def test_a_patch_that_was_written_for_another_nvflare_is_left_out_and_says_so_in_one_line(
    name: str, patched: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patch = importlib.import_module(f"multisite.nvflare_patches.{name}")
    function = next(iter(patch.UPSTREAM))
    before = [getattr(owner, attribute) for owner, attribute in REPLACED]
    monkeypatch.setitem(patch.UPSTREAM, function, "0" * 16)
    with caplog.at_level(logging.WARNING):
        assert nvflare_patches.apply(name) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"patch {name} is left out: this NVFlare's {function} is not the one that it was written for"
    ]
    assert [getattr(owner, attribute) for owner, attribute in REPLACED] == before


def test_a_function_that_is_gone_or_differs_in_one_character_has_another_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_upstream.py").write_text("def f():\n    return 1\n", encoding="utf-8")
    (tmp_path / "two_upstream.py").write_text("def f():\n    return 2\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    one, two = nvflare_patches.digest("one_upstream:f"), nvflare_patches.digest("two_upstream:f")
    assert one
    assert one != two
    assert nvflare_patches.digest("one_upstream:g") == nvflare_patches.digest("no_upstream:f") == ""
    assert nvflare_patches.changed({"one_upstream:f": one, "two_upstream:f": one}) == ["two_upstream:f"]


def test_the_pinned_nvflare_is_the_one_that_every_patch_was_written_for() -> None:
    """Without this an upgrade would switch a patch off with a line in the log alone."""
    for patch in (client_api_poll, early_frames):
        assert nvflare_patches.changed(patch.UPSTREAM) == []


CHANGES = """
import sys
from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from multisite import nvflare_patches
before = in_process_backend._RESULT_POLL_INTERVAL, ConnManager.process_frame, ConnManager.update_endpoint
nvflare_patches.apply(sys.argv[1])
after = in_process_backend._RESULT_POLL_INTERVAL, ConnManager.process_frame, ConnManager.update_endpoint
print(*[one is not other for one, other in zip(before, after)])
"""


@pytest.mark.parametrize(
    ("setting", "changed"), [("none", "False False False"), ("client_api_poll", "True False False"), ("all", "True True True")]
)
def test_a_process_has_the_chosen_patches_and_no_other(setting: str, changed: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHANGES, setting], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == changed.split()


def test_the_patches_import_nothing_else_of_this_package_and_are_250_lines_at_most() -> None:
    lines = 0
    for path in PACKAGE.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        lines += len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("multisite"), f"{path.name} imports {node.module}"
    assert lines <= 250
    assert inspect.getdoc(nvflare_patches)
