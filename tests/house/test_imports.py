"""Who may import whom: the table of the house, checked on every import of every file."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.house.source import PACKAGES, Import, imports, modules

STDLIB = set(sys.stdlib_module_names)
MODULES = {name: file for package in PACKAGES for name, file in modules(package).items()}
KNOWN = set(MODULES)

# Files of lightwatch that load in a moment, without torch: the launcher stands on them.
LIGHT = {
    "lightwatch",
    "lightwatch._beside",
    "lightwatch.callbacks",
    "lightwatch.checkpoints",
    "lightwatch.config",
    "lightwatch.corpus",
    "lightwatch.errors",
    "lightwatch.files",
    "lightwatch.law",
    "lightwatch.manifest",
    "lightwatch.metrics",
    "lightwatch.status",
    "lightwatch.trace",
}
# Files of the command that need torch or rich at their top: they are imported late, inside a function.
LATE = {"lightwatch.cli.live", "lightwatch.cli.recording", "lightwatch.cli.replay"}
# Files that decide. They get values and the time handed in, and give values back.
PURE = {
    *(
        f"control.{name}"
        for name in (
            "admit",
            "apply",
            "awaited",
            "checkup",
            "decide",
            "delays",
            "doctors",
            "entrance",
            "epochs",
            "events",
            "membership",
            "metrics",
            "plan",
        )
    ),
    *(f"control.{name}" for name in ("report", "roles", "seats", "state", "status", "totals", "tree", "versions")),
    "spheres.state",
}
IMPURE_STDLIB = {
    *("asyncio", "concurrent", "datetime", "fcntl", "glob", "io", "logging", "multiprocessing", "os", "pathlib"),
    *("random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "subprocess"),
    *("tempfile", "threading", "time", "uuid"),
}
CONTROL_FOR_SPHERES = {
    *("control.protocol", "control.status", "control.wire", "control.errors", "control.crash"),
    *("control.keyfile", "control.handshakes"),  # both ends lock their sockets alike
    "control.descriptors",  # gloo's and libzmq's sockets are asked alike
    *("control.config", "control.enrol", "control.tokens"),  # what an address, a join line is
    *("control.brief", "control.entrance"),  # what a run is
    "control.checkup",  # a doctor's card
    "control.deal",  # one rule for those who compute by it and for who measures it
}


def is_cli(name: str) -> bool:
    return name.startswith("lightwatch.cli") or name == "lightwatch.__main__"


def own(imported: Import, package: str) -> bool:
    return imported.relative and imported.package == package


def allowed(name: str, imported: Import) -> bool:
    """The table. Each line of it is a promise: what is missing here can't be reached from there."""
    package, module = name.partition(".")[0], imported.module
    if imported.package in STDLIB:
        return name not in PURE or imported.package not in IMPURE_STDLIB
    if name in PURE:
        return (
            own(imported, package)
            or (name == "spheres.state" and spheres_may(imported))
            or imported.package == "msgspec"
        )
    if name == "lightwatch" and imported.typing_only:
        return imported.package in {"lightwatch", "control"}
    if name in LIGHT:
        return own(imported, "lightwatch") and module in LIGHT
    if is_cli(name):
        return cli_may(name, imported)
    if package == "lightwatch":
        return (own(imported, "lightwatch") and not is_cli(module)) or imported.package in {
            "torch",
            "numpy",
            "safetensors",
        }
    if package == "control":
        return own(imported, "control") or imported.package in {"zmq", "msgspec"}
    return (
        own(imported, "spheres") or imported.package in {"torch", "zmq", "msgspec", "psutil"} or spheres_may(imported)
    )


def spheres_may(imported: Import) -> bool:
    return module_of_lightwatch(imported) or imported.module in CONTROL_FOR_SPHERES


def module_of_lightwatch(imported: Import) -> bool:
    return imported.package == "lightwatch" and not is_cli(imported.module)


def cli_may(name: str, imported: Import) -> bool:
    late = imported.late or imported.typing_only or name in LATE
    if imported.package == "lightwatch":
        light = imported.module in LIGHT or (is_cli(imported.module) and imported.module not in LATE)
        return imported.relative and (light or late)
    return late and imported.package in {"rich", "torch", "numpy", "safetensors", "control", "spheres"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_import_is_one_that_the_table_allows(name: str) -> None:
    """A file imports only what its package may; inside a package imports are relative."""
    wrong = [
        f"{MODULES[name]}:{each.line} imports {each.module}"
        for each in imports(name, MODULES[name], KNOWN)
        if not allowed(name, each)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lightwatch.config", "import torch"),
        ("lightwatch.config", "from .trainer import Trainer"),
        ("lightwatch.trainer", "import zmq"),
        ("lightwatch.trainer", "def f():\n    import control.client"),
        ("lightwatch.trainer", "from lightwatch.errors import LightwatchError"),
        ("lightwatch.cli.main", "import rich"),
        ("lightwatch.cli.main", "from ..trainer import Trainer"),
        ("lightwatch.cli.main", "from .recording import Recording"),
        ("lightwatch.cli.main", "def f():\n    import zmq"),
        ("control.server", "import torch"),
        ("control.server", "import lightwatch"),
        ("control.plan", "import time"),
        ("control.plan", "import zmq"),
        ("control.plan", "from os import path"),
        ("spheres.worker", "from control import server"),
        ("spheres.worker", "from control.client import ControlClient"),
        ("spheres.worker", "import rich"),
        ("spheres.state", "import torch"),
    ],
)
def test_the_table_refuses_what_it_must(name: str, text: str, tmp_path: Path) -> None:
    """One forbidden import of each kind: a table that allows everything would pass the test above too."""
    file = tmp_path / "file.py"
    file.write_text(text)
    (found,) = imports(name, file, KNOWN | {"control.server", "control.client", "lightwatch.trainer"})
    assert not allowed(name, found)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_inside_a_package_run_downhill(package: str) -> None:
    """No circles: between any two files one is below the other, so each can be read with only those below it."""
    graph = {}
    for name, file in modules(package).items():
        below = {each.module for each in imports(name, file, KNOWN) if not each.late}
        graph[name] = {module for module in below if module.startswith(f"{package}.") and module != name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", sorted(PURE & KNOWN))
def test_pure_files_open_nothing_and_print_nothing(name: str) -> None:
    """What decides has no hands: not even the built-in ones."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def test_the_table_names_files_that_exist() -> None:
    """A file renamed out of the table would lose its rule in silence."""
    assert KNOWN >= LIGHT
    assert KNOWN >= PURE
    assert KNOWN >= LATE
