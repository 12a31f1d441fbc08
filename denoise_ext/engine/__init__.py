"""The whole-network engine: a traced model as a list of native calls over planned memory.

* ``capture/`` records a call as a graph: ``trace`` on an ``instrumented_copy`` of the module,
  ``constants`` guards its attributes, ``shapes`` runs without data, ``signature`` is the key of a
  call.
* ``fuse/`` finds sites in the graph (``match``, ``match_conv``) and their replacements (``conv``,
  ``resampled``).  ``verify`` compares them with the original, ``decisions`` keeps the result on
  disk.
* ``run/`` orders the steps (``schedule``), places their results in ``memory`` and runs the
  ``plan``.  ``region`` keeps the plans of one module, ``reference_run`` runs the original,
  ``output_tree`` compares both, ``dispatch`` puts regions into a model.
* ``accelerate`` is the public function, ``report`` its table.
"""

from denoise_ext.engine.accelerate import Accelerated, accelerate, plan
from denoise_ext.engine.report import Report, Row

__all__ = ["Accelerated", "Report", "Row", "accelerate", "plan"]
