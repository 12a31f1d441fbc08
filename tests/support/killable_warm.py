"""Imported by the process that the others are forked from (test_batch_killed.py)."""

import killable

killable.warm_up()
