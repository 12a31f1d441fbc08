"""Every function and class of the reference has an example, and the examples work."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from docstring_examples import ROOT, documented, make_files

import denoise_ext
from denoise_ext._loader import native_error

pytestmark = [
    pytest.mark.skipif(not (ROOT / "docs/api").is_dir(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")

DOCUMENTED = documented() if (ROOT / "docs/api").is_dir() else {}
NEEDS = {  # name in the reference -> package of an extra
    "denoise_ext.data.noise.add_h264_artefacts": "av",
    "denoise_ext.io.video.check_can_write_video": "av",
    "denoise_ext.io.video.write_video": "av",
    "denoise_ext.export.export_onnx": "onnxruntime",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def example_of(name: str) -> doctest.DocTest:
    """The lines after >>> in the docstring itself: one that is inherited does not count."""
    names = {"denoise_ext": denoise_ext, "np": np, "torch": torch, "Path": Path}
    text = vars(DOCUMENTED[name]).get("__doc__") or DOCUMENTED[name].__doc__ or ""
    return doctest.DocTestParser().get_doctest(text, names, name, None, None)


def test_everything_has_an_example():
    assert len(DOCUMENTED) > 190
    assert [name for name in DOCUMENTED if not example_of(name).examples] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, files):
    """A folder with the files that examples name; what they register is forgotten."""
    from denoise_ext.io import codecs
    from denoise_ext.models import registry
    from denoise_ext.training import task

    monkeypatch.setattr(codecs, "_registered", {})
    tables = (registry, "_architectures"), (registry, "_models"), (registry, "_pretrained")
    for module, table in (*tables, (task, "_builders")):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_works(name, place):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example_of(name), out=failures.append)
    assert not failures, "".join(failures)
