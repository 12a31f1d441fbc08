"""Names that type checkers read from files of their own."""

from __future__ import annotations

import ast
from pathlib import Path

import denoise_ext
from denoise_ext._loader import native

PACKAGE = Path(denoise_ext.__file__).parent


def test_the_stub_of_the_native_library_has_its_functions():
    stub = ast.parse((PACKAGE / "_native.pyi").read_text(encoding="utf-8"))
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    module = native()
    assert set(functions) == {name for name in vars(module) if not name.startswith("__")}
    for name, node in functions.items():
        signature = getattr(module, name).__doc__.splitlines()[0]
        assert [f"{argument.arg}:" in signature for argument in node.args.args] == [
            True for _ in node.args.args
        ], signature
        assert signature.count(":") == len(node.args.args), signature


def test_the_stub_of_the_package_has_its_names():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        name.name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    [listed] = (ast.literal_eval(n.value) for n in stub.body if isinstance(n, ast.Assign))
    assert sorted(listed) == sorted(denoise_ext.__all__)
    assert {"__version__", *imported} == set(listed)
    for name in listed:
        assert getattr(denoise_ext, name) is not None
