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


def test_names_of_the_package_are_there_for_checkers_too():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name for node in block.body for name in node.names}
    assert {"__version__", *seen} == set(denoise_ext.__all__)
    for name in denoise_ext.__all__:
        assert getattr(denoise_ext, name) is not None
