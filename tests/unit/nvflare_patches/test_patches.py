"""Which patches are applied: the chosen ones, to the NVFlare that they were written for, and nothing beyond what they say."""

from __future__ import annotations

import ast
import importlib
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multisite import nvflare_patches
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
    for name in nvflare_patches.NAMES:
        upstream = importlib.import_module(f"multisite.nvflare_patches.{name}").UPSTREAM
        assert upstream, name
        assert nvflare_patches.changed(upstream) == [], name


# Every attribute of every module and class of NVFlare that is loaded, before a patch is applied and after.
CHANGES = """
import inspect, sys
from multisite import nvflare_patches
from multisite.nvflare_patches import client_api_poll, early_frames, metric_log
def attributes():
    found = {}
    for module in [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "nvflare"]:
        own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
        for owner in (module, *own):
            found |= {f"{module.__name__}:{owner.__name__}.{name}": value for name, value in vars(owner).items()}
    return found
before = attributes()
nvflare_patches.apply(sys.argv[1])
after = attributes()
print(*sorted(name for name in before | after if before.get(name) is not after.get(name)), sep="\\n")
"""


def name_of(owner: Any, attribute: str) -> str:
    return f"{getattr(owner, '__module__', owner.__name__)}:{owner.__name__}.{attribute}"


@pytest.mark.parametrize(("setting", "replaced"), [("none", ()), ("client_api_poll", REPLACED[:1]), ("all", REPLACED)])
def test_a_process_has_the_chosen_patches_and_nothing_else_of_nvflare_is_changed(
    setting: str, replaced: tuple[tuple[Any, str], ...]
) -> None:
    done = subprocess.run([sys.executable, "-c", CHANGES, setting], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == sorted(name_of(owner, attribute) for owner, attribute in replaced)


def test_the_patches_import_nothing_else_of_this_package_and_are_250_lines_at_most() -> None:
    lines = 0
    for path in PACKAGE.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        lines += len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.startswith("multisite")], path.name
            assert not getattr(node, "level", 0), path.name
    assert 0 < lines <= 250
