"""`Processor`: what a batch does to each of its pictures, with the same model and options."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from denoise_ext import __version__
from denoise_ext.io import ImageError, Picture, read_picture
from denoise_ext.io.digest import file_sha256
from denoise_ext.models import Network, list_models, pretrained_info
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.model_names import (
    check_textured,
    is_family,
    load_model,
    member,
    named_texture,
)
from denoise_ext.runtime.options import RunOptions
from denoise_ext.tasks.denoiser import Denoiser
from denoise_ext.tasks.guide import check_guided, default_guided, takes_guide
from denoise_ext.tasks.guided_filter import JOINT_BILATERAL, is_guided_filter
from denoise_ext.tasks.result import Result
from denoise_ext.tasks.treatment import PHOTO
from denoise_ext.tasks.value_range import Range


@dataclass(frozen=True)
class Processor:
    """Denoises every picture of a batch alike, on this machine or in the actors of a cluster."""

    model: str | os.PathLike[str] | None = None
    """A model's name, a checkpoint file, or None: the shipped ones for gray and for colour."""
    run: RunOptions = field(default_factory=RunOptions)
    sigma: float | None = None
    """As in `Denoiser`, on the 0-255 scale; None: estimated for each picture."""
    strength: float = 1.0
    alpha: str = "keep"
    texture: float = 0.0
    value_range: Range | None = None
    """The numbers that mean black and white, in place of each file's own."""
    axes: str | None = None
    """Letters for the axes of each file's array or pages, as a `Denoiser` takes them."""
    guide: str | os.PathLike[str] | None = None
    """File of the picture that guides every picture of the batch."""
    holes: str = "none"
    """As in `Denoiser`."""

    def load(self, network: Network | None = None, share: int = 1) -> Callable[[Picture], Result]:
        """Load the network; return the function that denoises a picture.

        Args:
            network: runs in place of `model`, whose weights it has; not used with a texture.
            share: number of pictures that are computed at the same time and share the memory.

        Raises:
            ValueError, RuntimeError: as `load_model` and `Denoiser`.
        """
        textured = named_texture(self.model, self.texture)[1]
        denoiser = load_denoiser(
            network if network is not None and not textured else self._model, self.run,
            guided=self.guide is not None,
            sigma=self.sigma, strength=self.strength, alpha=self.alpha, texture=self.texture,
            holes=self.holes,
        )  # fmt: skip
        guide = None if self.guide is None else read_guide(self.guide)
        return partial(
            denoiser.run, guide=guide, value_range=self.value_range, axes=self.axes, share=share
        )

    @property
    def _model(self) -> str | os.PathLike[str] | None:
        """The model, also where a guide decides."""
        return default_guided() if self.model is None and self.guide is not None else self.model

    def fingerprint(self) -> dict[str, Any]:
        """All that a result depends on besides its input: what `jobs` makes keys of.

        Device, tile and max_memory are left out: they change the last bits at most. A batch can
        therefore continue on another machine, or with less memory.
        """
        return {
            "version": __version__,
            "weights": weights_sha256(self._model, self.texture > 0),
            "sigma": self.sigma,
            "strength": self.strength,
            "precision": self.run.precision,
            "backend": self.run.backend,
            "alpha": self.alpha,
            **({"texture": self.texture} if self.texture else {}),
            **guide_facts(self.guide, self.holes),
            "value_range": self.value_range,
            "axes": self.axes,
        }


def load_denoiser(
    model: Network | str | os.PathLike[str] | None,
    run: RunOptions,
    guided: bool = False,
    **options: Any,
) -> Denoiser:
    """Make a `Denoiser` whose network is loaded: a wrong model is one error, not one per image.

    The networks of a family are the exception. They are loaded with the first image that needs
    them.

    Args:
        model: a network, a model's name, a checkpoint file, or the name of a family.
        run: device, precision, backend, memory.
        guided: whether images come with a guide, as the model must fit.
        options: the other ones of `Denoiser`.

    Raises:
        ValueError, RuntimeError: as `load_model` and `Denoiser`; a model that needs a guide, or
            takes none.
    """
    run = replace(run, device=choose_device(run.device, run.backend))
    textured = named_texture(model, options.get("texture", 0.0))[1]  # of two named networks
    as_it_is = is_family(model) or textured or model == JOINT_BILATERAL
    if not (model is None or isinstance(model, Network) or as_it_is):
        model = load_model(model, run.device, run.backend)
    check_guided(is_guided_filter(model) or takes_guide(model), guided)
    return Denoiser(model, **asdict(run), **options)


def read_guide(path: str | os.PathLike[str]) -> Picture:
    """The picture in a guide's file.  Raises ImageError, which names the guide."""
    try:
        return read_picture(path)
    except ImageError as error:
        raise ImageError(f"guide: {error}") from None


def guide_facts(guide: str | os.PathLike[str] | None, holes: str) -> dict[str, Any]:
    """What a result depends on with a guide, as a part of a fingerprint; without one nothing."""
    return {} if guide is None else {"guide": file_sha256(guide), "holes": holes}


def weights_sha256(model: str | os.PathLike[str] | None, textured: bool = False) -> str:
    """The hash that identifies a model's weights: that of their file, or of all files.

    `textured`: of the networks that a texture is interpolated from.
    """
    if textured or is_family(model):
        names = [member(model, channels) for channels in (1, 3)]
        names += [] if model else [PHOTO]  # the noise of a picture decides between these
        names = list(check_textured(model)) if textured else names
        shipped = [pretrained_info(name) for name in names]
        together = "".join(entry.sha256 if entry else "-" for entry in shipped)
        return hashlib.sha256(together.encode()).hexdigest()
    assert model is not None  # None is a family
    name = os.fspath(model)
    if name == JOINT_BILATERAL:  # its numbers are code
        return hashlib.sha256(name.encode()).hexdigest()
    own = pretrained_info(name) if name in list_models(pretrained=True) else None
    return own.sha256 if own else file_sha256(name)
