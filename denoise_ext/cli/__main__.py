"""``python -m denoise_ext.cli``."""

import sys

from denoise_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
