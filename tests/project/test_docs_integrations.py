"""The Python blocks of docs/integrations.md run, in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs_blocks import run_python

from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parents[2] / "docs/integrations.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
@pytest.mark.skipif(native_error() is not None, reason="needs the native library")
def test_snippets():
    names = run_python(PAGE)
    noisy = names["noisy"]
    for result in ("smooth", "edges", "clean"):
        assert names[result].shape == noisy.shape
        assert names[result].std() < noisy.std()
    assert names["image"].shape == (3, 96, 128) and names["label"] == 7
    assert names["NODE_CLASS_MAPPINGS"]
