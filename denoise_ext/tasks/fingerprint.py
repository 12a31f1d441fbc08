"""What determines a denoised image besides its input: model and options."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from denoise_ext import __version__
from denoise_ext.io.digest import file_sha256
from denoise_ext.models import list_models, pretrained_info
from denoise_ext.runtime.model_names import is_family, member
from denoise_ext.tasks.treatment import PHOTO

# an option that is not given is the same as its default
_DEFAULTS = {
    "sigma": None, "strength": 1.0, "precision": "default", "backend": "native", "alpha": "keep",
    "value_range": None, "axes": None,
}  # fmt: skip
# these change the last bits at most: a batch may go on on another machine, or with less memory
_NO_OTHER_RESULT = ("device", "tile", "max_memory")


def fingerprint_of(model: str | os.PathLike[str] | None = None, **options: Any) -> dict[str, Any]:
    """All that a result depends on besides its input: what `jobs` makes keys of.

    Args:
        model: a model's name, a checkpoint file, or None: the shipped ones for gray and for colour.
        options: of `denoise_ext.Denoiser`, value_range, axes. Device, tile and max_memory are left
            out, on which at most the last bits depend: a batch that ran out of memory can go on
            with less.
    """
    given = {name: value for name, value in options.items() if name not in _NO_OTHER_RESULT}
    return {"version": __version__, "weights": weights_sha256(model), **_DEFAULTS, **given}


def weights_sha256(model: str | os.PathLike[str] | None) -> str:
    """What tells a model's weights from all others: the hash of their file (or of all files)."""
    if is_family(model):
        names = [member(model, channels) for channels in (1, 3)]
        names += [] if model else [PHOTO]  # the noise decides between these
        shipped = [pretrained_info(name) for name in names]
        all_of_them = "".join(entry.sha256 if entry else "-" for entry in shipped)
        return hashlib.sha256(all_of_them.encode()).hexdigest()
    name = os.fspath(model)
    shipped = pretrained_info(name) if name in list_models(pretrained=True) else None
    return shipped.sha256 if shipped else file_sha256(name)
