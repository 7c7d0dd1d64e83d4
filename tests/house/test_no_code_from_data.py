"""Nothing that comes over a wire, or lies in a file, is ever run as code: the calls that would do it are not there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.source import PACKAGES, ROOT, python_files

MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "copyreg"),
    *("torch.distributed.rpc", "torch.package", "torch.serialization", "multiprocessing", "xmlrpc", "yaml", "runpy"),
}
"""Their messages or files are code. multiprocessing pickles what it sends."""
BUILT_IN = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("recv_pyobj", "send_pyobj", "recv_serialized", "send_serialized", "allow_pickle"),
    *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"),
    *("send_object_list", "recv_object_list", "rpc_sync", "rpc_async", "init_rpc", "load_module"),
}
TORCH_FILES = {"load", "save"}
EXCEPTIONS = {
    ("lightwatch/job.py", "runpy"): "the user's own script, which the user named",
    ("lightwatch/job.py", "runpy.run_path"): "the same",
    ("lightwatch/cli/script.py", "compile"): "whether that is Python at all: nothing is run",
}
"""What is named where, and why it is no code from data."""


def found(tree: ast.Module) -> set[str]:
    """The names of what must not be there: modules that are imported, functions that are named."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases if _is_bad(alias.name)}
            case ast.ImportFrom(module=module, names=aliases):
                inner = {f"{module}.{alias.name}" for alias in aliases}
                names |= {name for name in {module or "", *inner} if _is_bad(name)}
                names |= {alias.name for alias in aliases if alias.name in CALLS}
            case ast.Attribute(attr=attr) if attr in CALLS:
                names.add(attr)
            case ast.Attribute(value=ast.Name(id="builtins"), attr=attr) if attr in BUILT_IN:
                names.add(attr)
            case ast.Attribute(value=ast.Name(id="torch"), attr=attr) if attr in TORCH_FILES:
                names.add(f"torch.{attr}")
            case ast.Attribute() if _is_bad(ast.unparse(node)):
                names.add(ast.unparse(node))
            case ast.Name(id=name) if name in CALLS | BUILT_IN:
                names.add(name)
            case ast.keyword(arg="allow_pickle"):
                names.add("allow_pickle")
            case ast.Constant(value=str(text)) if text in {"pickle", "marshal", "dill", "cloudpickle"}:
                names.add(text)
            case _:
                pass
    return names


def _is_bad(module: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in MODULES)


@pytest.mark.parametrize("file", python_files(*PACKAGES), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_data_becomes_code(file: Path) -> None:
    """No pickle, torch.load, rpc, object collectives, nor eval, exec and marshal; the few exceptions are named."""
    name = str(file.relative_to(ROOT))
    excepted = {what for where, what in EXCEPTIONS if where == name}
    assert found(ast.parse(file.read_text(encoding="utf-8"))) == excepted


BAD = [
    "import pickle",
    "from pickle import loads",
    "import torch.distributed.rpc as rpc",
    "from torch.distributed import rpc",
    "from torch import package",
    "torch.load(path)",
    "torch.save(model, path)",
    "torch.serialization.load(path)",
    "torch.distributed.rpc.init_rpc('a')",
    "socket.recv_pyobj()",
    "socket.send_pyobj(x)",
    "dist.all_gather_object(a, b)",
    "from torch.distributed import broadcast_object_list",
    "numpy.load(path, allow_pickle=True)",
    "eval(text)",
    "exec(text)",
    "f = eval",
    "builtins.exec(text)",
    "compile(text, '', 'exec')",
    "import marshal",
    "importlib.import_module('pickle')",
    "__import__(name)",
    "from multiprocessing import Queue",
]
GOOD = ["re.compile('a')", "torch.compile(model)", "msgpack.decode(b'')", "import json", "load(path)", "model.eval()"]


@pytest.mark.parametrize("text", BAD)
def test_each_way_is_found(text: str) -> None:
    assert found(ast.parse(text))


@pytest.mark.parametrize("text", GOOD)
def test_what_only_looks_like_it_is_let_be(text: str) -> None:
    """A pattern, a compiled model, formats that hold values alone, torch's word for not training."""
    assert not found(ast.parse(text))
