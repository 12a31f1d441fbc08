"""deepinv: networks of this package as its denoisers, its physics as operators of `restore`.

Both packages meet in tensors (B, C, H, W) with black 0 and white 1.  deepinv's levels of noise are
on that scale, those of this package on the 0-255 scale.  Nothing of deepinv is imported: a
denoiser there is a module that is called with an image and a level, and a physics has `A`,
`A_adjoint` and `prox_l2` (Tachella et al., "DeepInverse", https://deepinv.github.io).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.restore.operators import Operator
from denoise_ext.runtime.model_names import Model, check_name
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.tasks.network_run import NetworkRun
from denoise_ext.tasks.sessions import Sessions


class DeepinvDenoiser(nn.Module):
    """A network of this package where deepinv wants a denoiser: ``deepinv.optim.PnP(denoiser)``.

    It runs planned, in tiles where that is needed, and keeps no gradients: good for plug-and-play
    and sampling, not for training of unrolled networks.

    Args:
        model: a network that is conditioned on a noise level, or a name or checkpoint of one.
            None: the shipped network for gray or for colour images.
        device, precision, backend, tile, max_memory: as in `denoise_ext.Denoiser`.

    Example:
        >>> from denoise_ext.integrations.deepinv import DeepinvDenoiser
        >>> denoiser = DeepinvDenoiser()  # deepinv.optim.PnP(denoiser=denoiser)
        >>> denoiser(torch.rand(2, 3, 32, 32), 0.1).shape  # black 0, white 1
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        model: Model = None,
        *,
        device: str | torch.device | None = "auto",
        precision: str = "default",
        backend: str = "native",
        tile: Tile = "auto",
        max_memory: int | None = None,
    ) -> None:
        super().__init__()
        if model is None or isinstance(model, str):
            check_name(model)
        self._options = RunOptions(device, precision, backend, tile, max_memory)
        self._sessions = Sessions(model, self._options)

    def forward(self, x: Tensor, sigma: float | Tensor, **kwargs: Any) -> Tensor:
        """x without noise.

        Args:
            x: (B, C, H, W), C = 1 or 3, black 0 and white 1.
            sigma: standard deviation of the noise on the same scale: a number, or a tensor of one
                or of B numbers.
            kwargs: ignored; deepinv passes its own to every denoiser.

        Returns:
            Of the shape, dtype and device of x.

        Raises:
            ValueError: a shape or number of levels that does not fit.
        """
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"x must be (B, 1 or 3, H, W), got {tuple(x.shape)}")
        levels = torch.as_tensor(sigma, dtype=torch.float64).flatten()
        if len(levels) not in (1, len(x)):
            raise ValueError(f"sigma must be 1 or {len(x)} levels, got {len(levels)}")
        if not bool((levels >= 0).all() & levels.isfinite().all()):
            raise ValueError(f"sigma must be finite and >= 0, got {levels.tolist()}")
        session = self._sessions.of(x.shape[1])
        run = NetworkRun(session, x.shape[1], self._options)
        y = x.detach().to(session.device, session.dtype)
        if len(levels) == 1:
            done = run(y, 255 * float(levels))
        else:
            done = torch.cat([run(y[i : i + 1], 255 * float(s)) for i, s in enumerate(levels)])
        return done.to(x)


class PhysicsOperator(Operator):
    """A linear physics of deepinv as an operator of `restore.Restorer`.

    Args:
        physics: has `A` and `A_adjoint` for tensors, as ``deepinv.physics.LinearPhysics``.
            `prox_l2` is used where there is one.
        settling: steps at the first level of noise, for physics that leave much open.

    Raises:
        TypeError: an object without `A` and `A_adjoint`.

    Example:
        >>> from denoise_ext.integrations.deepinv import PhysicsOperator
        >>> class Halved:  # as deepinv.physics.LinearPhysics
        ...     def A(self, x):
        ...         return x / 2
        ...     def A_adjoint(self, y):
        ...         return y / 2
        >>> restorer = denoise_ext.restore.Restorer(PhysicsOperator(Halved()), sigma=5, steps=2)
        >>> restorer.restore(torch.rand(1, 1, 32, 32), 5.0).shape
        torch.Size([1, 1, 32, 32])
    """

    physics: Any
    settling: int

    def __init__(self, physics: Any, settling: int = 0) -> None:
        for name in ("A", "A_adjoint"):
            if not callable(getattr(physics, name, None)):
                raise TypeError(
                    f"physics must have {name}, as deepinv.physics.LinearPhysics, got"
                    f" {type(physics).__name__}"
                )
        self.physics, self.settling = physics, settling

    def forward(self, x: Tensor) -> Tensor:
        """The measurements of x."""
        return self.physics.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `forward`."""
        return self.physics.A_adjoint(y)

    def prox(self, v: Tensor, y: Tensor, rho: float) -> Tensor:
        """deepinv weighs the measurements by gamma, the image by 1: gamma is 1 / rho."""
        if not callable(getattr(self.physics, "prox_l2", None)):
            return super().prox(v, y, rho)
        return self.physics.prox_l2(v, y, 1 / rho)
