"""OpenMP threads of commands: those of the denoising thread, and no others."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from recurrent import network
from y4m_files import y4m

from denoise_ext.io import write_image
from denoise_ext.models import save_model

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="counts threads by /proc"
)

# Counts the process's threads when a plan has run, without Python's own.
_PROGRAM = """
import os, sys, threading
import numpy, torch

torch.set_num_threads(2)
count = lambda: len(os.listdir("/proc/self/task")) - threading.active_count()
before, added = count(), set()

from denoise_ext.cli import main
from denoise_ext.engine.run.plan import Plan

leaves = Plan.leaves


def counted(self, *tensors):
    result = leaves(self, *tensors)
    added.add(count() - before)
    return result


Plan.leaves = counted
code = main(sys.argv[1:])
print(code, *sorted(added), file=sys.stderr)
"""


@pytest.mark.parametrize("tag", ["mono", "420jpeg"])
@pytest.mark.parametrize("own", [False, True])
def test_only_the_denoising_thread_has_openmp_threads(tmp_path, tag, own):
    model = "rdxnet_s_gray"
    if own:
        model = str(tmp_path / "net.safetensors")
        save_model(network(), model, torch.float32)
    film = y4m(tag, 4, width=320, height=240)
    assert added_threads(["video", "-", "-", "--model", model], film) == ["0", "1"]


def test_those_of_a_folder_of_images(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.full((240, 320), 128, np.uint8))
    arguments = ["denoise", str(tmp_path), "-o", str(tmp_path / "out"), "--model", "dxnet_xs_gray"]
    assert added_threads([*arguments, "--sigma", "20"]) == ["0", "1"]


def added_threads(arguments: list[str], given: bytes = b"") -> list[str]:
    """The exit code, and the numbers of OpenMP threads that were seen."""
    command = [sys.executable, "-c", _PROGRAM, *arguments, "-q"]
    done = subprocess.run(command, input=given, capture_output=True)
    return done.stderr.decode().splitlines()[-1].split()
