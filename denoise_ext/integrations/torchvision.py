"""torchvision: a transform for `torchvision.transforms.v2`, and for plain tensors without it.

Nothing of torchvision is imported. Its rules are followed (documentation of
`torchvision.transforms.v2.Transform`): images, videos and Pillow images of a sample are
transformed, wherever they are in it. A plain tensor counts as the image where there is none of
these, and only the first one does. Masks, boxes and labels pass through.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from PIL import Image as PillowImage
from torch import Tensor, nn

from denoise_ext.tasks import Denoiser


class Denoise(nn.Module):
    """Denoise the images of a sample: ``v2.Compose([Denoise(), v2.RandomCrop(64)])``.

    Use it before transforms that change the noise, such as resizing.

    Args:
        denoiser: how; None: a `denoise_ext.Denoiser` without options, so that the noise of each
            image decides.

    Example:
        >>> from denoise_ext.integrations.torchvision import Denoise
        >>> transform = Denoise(denoise_ext.Denoiser(sigma=15))
        >>> image, label = transform(torch.rand(3, 48, 64), 7)
        >>> image.shape, label
        (torch.Size([3, 48, 64]), 7)
    """

    def __init__(self, denoiser: Denoiser | None = None) -> None:
        super().__init__()
        self._denoiser = denoiser or Denoiser()

    def forward(self, first: Any, *others: Any) -> Any:
        """A sample of the same structure.

        Args:
            first, others: values. Tuples, lists and dicts are searched. Images are tensors
                (..., C, H, W) with C from 1 to 4, uint8, uint16 or floating point in [0, 1], or
                what `Denoiser` takes of Pillow's. Videos (..., T, C, H, W) are frame by frame.

        Returns:
            The value alone where one was given, else a tuple.

        Raises:
            TypeError, ValueError: an image that `Denoiser` does not take.
        """
        sample = (first, *others) if others else first
        found: list[Any] = []

        def note(leaf: Any) -> Any:
            found.append(leaf)
            return leaf

        _mapped(sample, note)
        chosen = [id(leaf) for leaf in found if _is_image(leaf)]
        chosen = chosen or [id(leaf) for leaf in found if type(leaf) is Tensor][:1]
        return _mapped(sample, lambda leaf: self._clean(leaf) if id(leaf) in chosen else leaf)

    def _clean(self, image: Any) -> Any:
        if not isinstance(image, Tensor):
            return self._denoiser(image)
        if image.dim() < 3:
            raise ValueError(f"image must be (..., C, H, W), got shape {tuple(image.shape)}")
        plain = image.detach().as_subclass(Tensor)
        clean = self._denoiser(plain.reshape(-1, *plain.shape[-3:])).reshape(plain.shape)
        if type(image) is Tensor:
            return clean
        return sys.modules["torchvision.tv_tensors"].wrap(clean, like=image)


def _is_image(leaf: Any) -> bool:
    """Whether its type is that of an image or a video."""
    types = sys.modules.get("torchvision.tv_tensors")  # loaded where a sample has such tensors
    known = (types.Image, types.Video) if types else ()
    return isinstance(leaf, (PillowImage.Image, *known))


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same tuples, lists and dicts, with other leaves."""
    if isinstance(value, dict):
        made = copy.copy(value)  # also what a subclass has besides, as a default factory
        made.update((key, _mapped(item, function)) for key, item in value.items())
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, function) for item in value)
    return function(value)
