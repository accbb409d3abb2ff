"""Imports run one way (README.md, "The code")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "multisite"
EVERYBODY = {"text", "locks"}  # may be imported from everywhere
# Package -> the packages that it may import, beside itself and these. Whoever starts a process may import the patches.
MAY_IMPORT = {
    "cifar10": set(),
    "tracking": set(),
    "nvflare_patches": set(),
    "job": {"tracking", "cifar10"},
    "provisioning": {"job", "tracking", "cifar10"},
    "node": {"job", "provisioning", "tracking", "cifar10", "nvflare_patches"},
    "admin": {"job", "provisioning", "tracking", "cifar10", "nvflare_patches"},
    "console": {"job", "provisioning", "tracking", "cifar10"},
}


def imported(path: Path) -> Iterator[str]:
    """The packages of this project that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "multisite":
            parts = str(node.module).split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("multisite.")]


def test_every_package_is_in_the_picture() -> None:
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} == set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    allowed = {package, *EVERYBODY, *MAY_IMPORT[package]}
    found = {path.name: set(imported(path)) - allowed for path in (SOURCE / package).glob("*.py")}
    assert {name: extra for name, extra in found.items() if extra} == {}
