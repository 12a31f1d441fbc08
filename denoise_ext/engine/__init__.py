"""The whole-network engine: a traced model as a list of native calls over planned memory.

``trace`` records a call (``clone``: on a stand-in of the module, ``fixed``: whose attributes cannot
change unnoticed; ``shapes``: without data) as a ``graph``; ``match`` and ``match_conv`` find sites
in it; ``verify`` holds what would replace them against the original, ``decisions`` keeps what it
found for the next process; ``schedule`` orders the steps
and places their results in ``memory``; ``plan`` runs them.  ``region`` keeps the plans of one
module (``calls``: which of them serves a call; ``twin``: what the original returns; ``results``:
how far that is off), ``shadow`` puts regions into a model, ``accelerate`` is the public function.
"""

from denoise_ext.engine.accelerate import Accelerated, accelerate, plan
from denoise_ext.engine.report import Report, Row

__all__ = ["Accelerated", "Report", "Row", "accelerate", "plan"]
