"""Every name of NVFlare that src/ and jobs/ use, in a list, and looked up in the NVFlare that is installed.

The list (nvflare_names.txt) is what an upgrade is read against: this test says which lines another release has no more. It has

    module:Name            what is imported
    module:Name.attribute  what is used of it, of a parameter that is annotated with it, or of `self` in a subclass; or is overridden there
    module:Name(argument)  what is passed to it by name, by a call or by a subclass's `super().__init__`
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nvflare
import pytest

HOME = Path(__file__).parents[2]
LIST = Path(__file__).with_name("nvflare_names.txt")
SETTING = re.compile(r'"NVFLARE_([A-Z_]+)"')


def listed() -> set[str]:
    return {line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")}


class Uses:
    """What one file uses of NVFlare.

    Attributes:
        names: the lines that the list has to have for it.
        overridden: the lines that it may have: methods of subclasses, which override one of NVFlare's or are new.
    """

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        self.imported: dict[str, str] = {}  # name in the file -> line
        self.names: set[str] = set()
        self.overridden: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nvflare":
                self.imported |= {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                self.imported |= {
                    alias.asname: f"{alias.name}:" for alias in node.names if alias.name.startswith("nvflare.") and alias.asname
                }
        self.names |= {name for name in self.imported.values() if not name.endswith(":")}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Attribute, ast.Call)):
                self._use(node, self.imported)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._parameters(node)
            elif isinstance(node, ast.ClassDef) and len(node.bases) == 1 and (base := self._named(node.bases[0], self.imported)):
                self._subclass(node, base)

    def _named(self, node: ast.AST | None, known: dict[str, str]) -> str:
        """The line of a name, or of an attribute of one; empty for anything else."""
        if isinstance(node, ast.Name):
            return known.get(node.id, "")
        if isinstance(node, ast.Attribute) and (owner := known.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""):
            return f"{owner}{node.attr}" if owner.endswith(":") else f"{owner}.{node.attr}"
        return ""

    def _use(self, node: ast.Attribute | ast.Call, known: dict[str, str]) -> None:
        if isinstance(node, ast.Attribute):
            self.names |= {self._named(node, known)} - {""}
        elif called := self._named(node.func, known):
            self.names |= {f"{called}({keyword.arg})" for keyword in node.keywords if keyword.arg}

    def _parameters(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        annotated = {one.arg: self._named(one.annotation, self.imported) for one in arguments}
        known = {name: line for name, line in annotated.items() if line}
        for node in ast.walk(function):
            if isinstance(node, (ast.Attribute, ast.Call)):
                self._use(node, known)

    def _subclass(self, subclass: ast.ClassDef, base: str) -> None:
        methods = {node.name for node in subclass.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        attributes = [node for node in ast.walk(subclass) if isinstance(node, ast.Attribute) and _is_self(node.value)]
        own = methods | {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
        own |= {ast.unparse(target) for node in subclass.body for target in _targets(node)}
        self.overridden |= {f"{base}.{name}" for name in own if name != "__init__"}
        self.names |= {f"{base}.{node.attr}" for node in attributes if node.attr not in own}
        for node in ast.walk(subclass):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "super()":
                called = base if node.func.attr == "__init__" else f"{base}.{node.func.attr}"
                self.names |= {f"{called}({keyword.arg})" for keyword in node.keywords if keyword.arg} - {called}


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Assign):
        yield from node.targets
    elif isinstance(node, ast.AnnAssign):
        yield node.target


@functools.cache
def uses() -> dict[str, Uses]:
    """File -> what it uses."""
    files = sorted(path for folder in ("src", "jobs") for path in (HOME / folder).rglob("*.py"))
    return {str(path.relative_to(HOME)): Uses(path.read_text(encoding="utf-8")) for path in files}


def problem(line: str) -> str:
    """Why a line names nothing in the NVFlare that is installed; empty if it does."""
    path, _, argument = line.rstrip(")").partition("(")
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        return str(error)
    for name in names.split("."):
        if inspect.ismodule(found) and not hasattr(found, name):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{found.__name__}.{name}")  # it is an attribute then
        if not has(found, name):
            return f"{found.__name__} has no {name}"
        found = getattr(found, name, None)
    return "" if not argument or takes(found, argument) else f"{names} takes no {argument}"


def has(owner: Any, name: str) -> bool:
    """Whether a module, a class, or an instance of it has this attribute: instances', by an assignment in its classes' source."""
    if hasattr(owner, name):
        return True
    bases = [base for base in inspect.getmro(owner) if base.__module__.startswith("nvflare")] if inspect.isclass(owner) else []
    return any(re.search(rf"\bself\.{name}\b(: [^=\n]+)? = ", inspect.getsource(base)) for base in bases)


def takes(called: Any, argument: str) -> bool:
    """Whether a function or a class takes an argument of that name. A class that takes any hands them to its base, a function to another."""
    for owner in inspect.getmro(called) if inspect.isclass(called) else (called,):
        parameters = inspect.signature(owner).parameters.values()
        if any(one.name == argument for one in parameters):
            return True
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return False
    return not inspect.isclass(called)


# What is used of objects whose class no file of ours names: attribute, and the classes of NVFlare that we meet it in.
SERVER_ENGINE, CLIENT_ENGINE = (
    "nvflare.private.fed.server.server_engine:ServerEngine",
    "nvflare.private.fed.client.client_engine:ClientEngine",
)
SERVER, CLIENT = "nvflare.private.fed.server.fed_server:FederatedServer", "nvflare.private.fed.client.fed_client:FederatedClient"
CELL, CORE_CELL = "nvflare.fuel.f3.cellnet.cell:Cell", "nvflare.fuel.f3.cellnet.core_cell:CoreCell"
JOBS = "nvflare.apis.impl.job_def_manager:SimpleJobDefManager"
WITHOUT_IMPORT = {
    "abort_app": [CLIENT_ENGINE],
    "add_incoming_filter": [CORE_CELL],
    "cell": [SERVER_ENGINE],
    "check_engine_frequency": [SERVER],
    "check_tasks": ["nvflare.apis.impl.wf_comm_server:WFCommServer"],
    "client": [CLIENT_ENGINE],
    "client_executor": [CLIENT_ENGINE],
    "core_cell": [CELL],
    "decode_pass_through_topics": [CELL],
    "fire_and_forget": [CORE_CELL],
    "get_all_job_ids": [CLIENT_ENGINE],
    "get_cell": [SERVER_ENGINE, CLIENT_ENGINE],
    "get_clients": [SERVER_ENGINE],
    "get_component": [SERVER_ENGINE, CLIENT_ENGINE],
    "get_job": [JOBS],
    "get_jobs_by_status": [JOBS],
    "get_workspace": [SERVER_ENGINE],
    "new_context": [SERVER_ENGINE],
    "register_request_cb": [CORE_CELL],
    "run_processes": [SERVER_ENGINE, "nvflare.private.fed.client.client_executor:JobExecutor"],
    "send_aux_request": [SERVER_ENGINE],
    "send_request": [CORE_CELL],
    "server": [SERVER_ENGINE],
    "set_status": [JOBS],
    "sfm_endpoint": ["nvflare.fuel.f3.sfm.sfm_conn:SfmConnection"],
    "shutdown": [CLIENT_ENGINE],
    "shutdown_period": [SERVER],
    "shutdown_server": [SERVER_ENGINE],
    "terminate": ["nvflare.apis.job_launcher_spec:JobHandleSpec"],
    "token": [CLIENT],
    "update_meta": [JOBS],
}


def used_in(line: str) -> str:
    return ", ".join(file for file, found in uses().items() if line in found.names | found.overridden)


def test_the_list_has_every_name_of_nvflare_that_the_code_uses_and_no_other() -> None:
    found = uses().values()
    names = set().union(*(one.names for one in found))
    overridden = set().union(*(one.overridden for one in found))
    needed = names | {line for line in overridden if not problem(line)}
    lines = [f"add  {line}   ({used_in(line)})" for line in sorted(needed - listed())]
    lines += [f"drop {line}" for line in sorted(listed() - names - overridden)]
    assert not lines, "in tests/unit/nvflare_names.txt:\n" + "\n".join(lines)


def test_every_name_of_the_list_is_in_the_nvflare_that_is_installed() -> None:
    gone = {line: why for line in sorted(listed()) if (why := problem(line))}
    version = importlib.metadata.version("nvflare")
    assert not gone, f"NVFlare {version}:\n" + "\n".join(f"{line}: {why}   ({used_in(line)})" for line, why in gone.items())


def test_every_attribute_that_is_used_without_an_import_is_in_the_nvflare_that_is_installed() -> None:
    lines = [f"{owner}.{name}" for name, owners in WITHOUT_IMPORT.items() for owner in owners]
    gone = [f"{line}: {why}" for line in lines if (why := problem(line))]
    assert not gone, f"NVFlare {importlib.metadata.version('nvflare')}:\n" + "\n".join(gone)


@pytest.mark.parametrize("name", WITHOUT_IMPORT)
def test_an_attribute_that_no_file_uses_any_more_is_no_part_of_the_list(name: str) -> None:
    attributes = re.compile(rf"\.{name}\b|getattr\(.*\"{name}\"")
    assert any(attributes.search(path.read_text(encoding="utf-8")) for path in (HOME / "src").rglob("*.py"))


def test_every_setting_that_nvflare_takes_from_the_environment_is_one_that_it_reads() -> None:
    ours = {name for file in uses() for name in SETTING.findall((HOME / file).read_text(encoding="utf-8"))}
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(nvflare.__path__[0]).rglob("*.py"))
    assert ours
    assert [name for name in sorted(ours) if f'"{name.lower()}"' not in source] == []


# The tests of the walk itself

EXAMPLE = """
import nvflare.client as flare
from nvflare.apis.controller_spec import Task as Work
from nvflare.app_common.workflows.fedavg import FedAvg
from multisite import text
class Ours(FedAvg):
    own = 1
    def __init__(self):
        super().__init__(num_rounds=2)
        self.mine = self.own + self.mine + text.x
    def run(self, task: Work):
        flare.send(self.communicator, x=task.props)
    def no_override(self): ...
"""


def test_the_walk_finds_imports_attributes_arguments_and_overrides() -> None:
    found, fedavg, task = Uses(EXAMPLE), "nvflare.app_common.workflows.fedavg:FedAvg", "nvflare.apis.controller_spec:Task"
    assert found.names == {
        fedavg, f"{fedavg}(num_rounds)", f"{fedavg}.communicator", task, f"{task}.props", "nvflare.client:send", "nvflare.client:send(x)",
    }  # fmt: skip
    assert found.overridden == {f"{fedavg}.{name}" for name in ("run", "no_override", "own", "mine")}
    assert not problem(f"{fedavg}.run")
    assert problem(f"{fedavg}.no_override")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nvflare.apis.fl_components:FLComponent", "No module named 'nvflare.apis.fl_components'"),
        ("nvflare.apis.fl_component:FlComponent", "nvflare.apis.fl_component has no FlComponent"),
        ("nvflare.apis.event_type:EventType.BEGIN_RUN", "EventType has no BEGIN_RUN"),
        ("nvflare.app_common.workflows.fedavg:FedAvg(rounds)", "FedAvg takes no rounds"),
        (f"{SERVER_ENGINE}.processes", "ServerEngine has no processes"),
        (f"{CELL}.core", "Cell has no core"),
    ],
)
def test_a_name_that_moved_is_said_with_what_is_gone(line: str, why: str) -> None:
    assert problem(line) == why


if __name__ == "__main__":  # the list anew
    everything = uses().values()
    print("# Written by `PYTHONPATH=src:. python tests/unit/test_nvflare_names.py`, which says what a line is.")
    print(
        *sorted(set().union(*(one.names | {name for name in one.overridden if not problem(name)} for one in everything))), sep="\n"
    )
