"""A Walsh-Hadamard transform in the layers of a codec: the weights that its training starts from.

The linear path of an untrained codec then is a transform of 16 x 16 pixels that keeps the basis
functions of most energy, and its inverse. Training refines it, and need not find it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Orthonormal: gray, red against blue, green against both.
_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
_CHROMA = 0.05  # energy of a colour difference beside gray, about
_SIGNS = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


class Basis:
    """Functions on blocks of pixels, (count, C, side, side), orthonormal."""

    def __init__(self, functions: Tensor) -> None:
        self.functions = functions

    @classmethod
    def of_pixels(cls, channels: int) -> Basis:
        """One function for each channel of a pixel."""
        mixed = torch.tensor(_COLOURS) if channels == 3 else torch.eye(channels)
        return cls((mixed / mixed.norm(dim=1, keepdim=True))[..., None, None])

    def __len__(self) -> int:
        return len(self.functions)

    def merged(self, most: int) -> tuple[Basis, Tensor]:
        """The functions of 2 x 2 blocks, and their weights (functions, those of one block, 2, 2).

        Of all products with signs, the ``most`` of most energy.
        """
        count, channels, side, _ = self.functions.shape
        signs = _SIGNS.reshape(4, 2, 2)
        made = torch.einsum("ncyx,sij->nsciyjx", self.functions, signs)
        made = made.reshape(4 * count, channels, 2 * side, 2 * side)
        weights = torch.einsum("nm,sij->nsmij", torch.eye(count), signs)
        weights = weights.reshape(4 * count, count, 2, 2)
        order = _energy(made).argsort(descending=True, stable=True)[:most]
        return Basis(made[order]), weights[order]


def _energy(functions: Tensor) -> Tensor:
    """About the variance of each function's coefficient in pictures: falls with its frequency."""
    side = functions.shape[-1]
    changes = [
        (functions.diff(dim=axis).abs() > 1e-6).flatten(1).double().mean(1) * (side - 1)
        for axis in (2, 3)
    ]
    gray = functions.mean(1, keepdim=True).abs().flatten(1).amax(1) > 1e-6
    return torch.where(gray, 1.0, _CHROMA) * side**2 / (1 + changes[0] ** 2 + changes[1] ** 2)
