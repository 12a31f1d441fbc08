"""Peak memory of a piece of code, measured in a process apart."""

from __future__ import annotations

import atexit
import functools
import json
import subprocess
import sys
import tempfile

# A child runs one statement after the other: to import the package takes longer than most of them.
# Before each, what is free goes back to the system, and the peak starts at what is left.
_MEASURE = """
import ctypes, gc, json, sys
{before}
trim = ctypes.CDLL(None).malloc_trim

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))

for line in sys.stdin:
    code = compile(json.loads(line), "<case>", "exec")
    gc.collect()
    trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM becomes VmRSS
    started, error = kilobytes("VmRSS:"), None
    try:
        exec(code, globals())
    except ValueError as raised:  # io.ImageError and models.CheckpointError are
        error = str(raised)
    print(json.dumps([error, 1024 * (kilobytes("VmHWM:") - started)]), flush=True)
"""


class _Child:
    """A process that runs `before`, then statements one by one."""

    def __init__(self, before: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the child)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MEASURE.format(before=before)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        atexit.register(self.close)

    def run(self, code: str) -> tuple[str | None, int]:
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._errors.seek(0)
            raise AssertionError(f"the process ended with {code}\n{self._errors.read()}")
        error, growth = json.loads(answer)
        return error, growth

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


_child = functools.cache(_Child)


def error_and_growth(code: str, before: str) -> tuple[str | None, int]:
    """Run one statement; the message of its ValueError if any, and the bytes it took.

    Args:
        code: the statement.
        before: statements whose memory does not count: imports, a warm-up.  Statements with the
            same ones share a process.
    """
    try:
        return _child(before).run(code)
    except AssertionError:
        _child.cache_clear()  # the next statement gets a new process
        raise
