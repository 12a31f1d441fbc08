"""How much of the public names' types a type checker knows from annotations alone: ``make lint``.

Pyright counts it for the package as it is installed (``pyright --verifytypes``), and this fails
below `LEAST`. The names that lack a type are listed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEAST = 0.98


def main() -> int:
    """Print the share of known types; 1 if it is too small."""
    # An editable install is found by a hook that Pyright does not run. With --verifytypes Pyright
    # ignores --pythonpath and takes the first python of PATH: without this, torch is unknown to it.
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": search_path}
    command = [sys.executable, "-m", "pyright",
               "--verifytypes", "denoise_ext", "--ignoreexternal", "--outputjson"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    if not found["symbols"]:
        print("error: Pyright found no package denoise_ext", file=sys.stderr)
        return 1
    score = found["completenessScore"]
    for symbol in found["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            for diagnostic in symbol["diagnostics"][:1]:  # none of a class of such attributes
                print(f"{symbol['name']}: {diagnostic['message'].splitlines()[0]}")
    print(f"types of public names: {score:.1%} complete, {LEAST:.0%} needed")
    return int(score < LEAST)


if __name__ == "__main__":
    sys.exit(main())
