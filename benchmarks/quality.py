"""Quality of every shipped network, published checkpoint and filter: README.md, "Quality"."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from quality.run import main  # noqa: E402  (the folder: a package comes before a module)

if __name__ == "__main__":
    sys.exit(main())
