"""OpenMP threads of `denoise-ext video`: those of the denoising thread, and no others."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from recurrent import network
from y4m_files import y4m

from denoise_ext.models import save_model

# Counts the process's threads when a frame has been denoised, without Python's own.
_PROGRAM = """
import os, sys, threading
import numpy, torch

torch.set_num_threads(2)
count = lambda: len(os.listdir("/proc/self/task")) - threading.active_count()
before, added = count(), set()

from denoise_ext.cli import main
from denoise_ext.tasks import VideoDenoiser

push = VideoDenoiser.push


def counted(self, frame, **options):
    result = push(self, frame, **options)
    added.add(count() - before)
    return result


VideoDenoiser.push = counted
code = main(sys.argv[1:])
print(code, *sorted(added), file=sys.stderr)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads by /proc")
@pytest.mark.parametrize("tag", ["mono", "420jpeg"])
@pytest.mark.parametrize("own", [False, True])
def test_only_the_denoising_thread_has_openmp_threads(tmp_path, tag, own):
    model = "rdxnet_s_gray"
    if own:
        model = str(tmp_path / "net.safetensors")
        save_model(network(), model, torch.float32)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "video", "-", "-", "-q", "--model", model],
        input=y4m(tag, 4, width=320, height=240), capture_output=True,
    )  # fmt: skip
    assert done.stderr.decode().split()[-2:] == ["0", "1"]
