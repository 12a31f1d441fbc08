"""A compiler for builds that are thrown away: objects of the editable build where they fit."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "editable"
BUILD_FILE = BUILD / "build.ninja"

# The rest is compiled without optimisation, which takes a fifth of the time.
COMPILER = """#!{python}
import json, os, shutil, sys
arguments = sys.argv[1:]  # ... -include HEADER -MMD -MF DEPENDENCIES -c SOURCE -o OBJECT
known = json.load(open({table!r})).get(arguments[-3])
if known and known["options"] == arguments[: arguments.index("-include")]:
    shutil.copyfile(known["object"], arguments[-1])
else:
    os.execvp({compiler[0]!r}, [*{compiler!r}, *arguments, "-O0"])
"""


def _ninja(tool: str) -> str:
    command = [sys.executable, "-m", "ninja", "-C", ROOT, "-f", BUILD_FILE, "--quiet", "-t", tool]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _is_current(target: Path, names: list[str], tree: Path) -> bool:
    """Whether an object has been compiled from these files, and `tree` has the same ones."""
    files = [(ROOT / name, tree / name) for name in names]
    return target.exists() and all(
        here.exists() and there.exists() and here.read_bytes() == there.read_bytes()
        and here.stat().st_mtime_ns <= target.stat().st_mtime_ns
        for here, there in files
    )  # fmt: skip


def kernels_built_here(tree: Path) -> dict[str, dict[str, object]]:
    """Source -> object and options: the CPU kernels for which a build of `tree` gives the same."""
    if not BUILD_FILE.exists():
        return {}
    found: dict[str, dict[str, object]] = {}
    for block in _ninja("deps").split("\n\n"):
        head, *names = [line.strip() for line in block.strip().splitlines()] or [""]
        target = ROOT / head.partition(":")[0]
        if names and names[0].startswith("csrc/cpu/") and _is_current(target, names, tree):
            found[names[0]] = {"object": str(target), "options": None}
    for line in _ninja("commands").splitlines():
        command = shlex.split(line)
        if "-MMD" in command and command[-3] in found:
            found[command[-3]]["options"] = command[1 : command.index("-include")]
    return found


def quick_compiler(folder: Path, tree: Path) -> str:
    """A program in `folder` for a build of `tree`, in the place of the C++ compiler."""
    table, script = folder / "kernels.json", folder / "quick-c++"
    table.write_text(json.dumps(kernels_built_here(tree)))
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    script.write_text(COMPILER.format(python=sys.executable, table=str(table), compiler=compiler))
    script.chmod(0o755)
    return str(script)
