"""Peak memory of a piece of code, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_MEASURE = """
import json, resource, sys
sys.path.insert(0, {tests!r})
from denoise_ext import io, models
{before}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
started, error = peak(), None
try:
    {code}
except (io.ImageError, models.CheckpointError) as raised:
    error = str(raised)
print(json.dumps([error, peak() - started]))
"""


def error_and_growth(code: str, before: str = "") -> tuple[str | None, int]:
    """Run one statement; the message of its ImageError or CheckpointError, and bytes it took.

    Args:
        code: a statement; `io` and `models` are there.
        before: statements whose memory does not count: imports, a warm-up.
    """
    script = _MEASURE.format(code=code, before=before, tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, growth = json.loads(done.stdout)
    return error, growth
