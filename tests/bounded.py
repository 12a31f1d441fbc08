"""Peak memory of a piece of code, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

_MEASURE = """
import json, resource
{before}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
started, error = peak(), None
try:
    {code}
except ValueError as raised:  # io.ImageError and models.CheckpointError are
    error = str(raised)
print(json.dumps([error, peak() - started]))
"""


def error_and_growth(code: str, before: str) -> tuple[str | None, int]:
    """Run one statement; the message of its ValueError if any, and the bytes it took.

    Args:
        code: the statement.
        before: statements whose memory does not count: imports, a warm-up.
    """
    script = _MEASURE.format(code=code, before=before)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, growth = json.loads(done.stdout)
    return error, growth
