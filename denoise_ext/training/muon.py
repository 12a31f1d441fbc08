"""Muon: momentum whose update is made orthogonal.

Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein: "Muon: An optimizer for hidden layers in
neural networks", 2024 (kellerjordan.github.io/posts/muon). A convolution's weight (out, in, kh, kw)
is taken as the matrix (out, in * kh * kw).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn.functional import hardshrink
from torch.optim.optimizer import ParamsT

# Quintic Newton-Schulz iteration of the source: five steps bring every singular value of a matrix
# of norm <= 1 to about 0.7-1.2, which serves as well as exactly 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# Biases and other vectors have no matrix to make orthogonal: they move by Adam, at this part of
# the matrices' rate.
_VECTOR_RATE = 0.1
# The momentum of a feature that is off decays towards zero. On a CPU, operations on numbers
# below the least normal float32 (1e-38) take a hundred times as long, in the
# matrix products above all.
_LEAST_MOMENTUM = 1e-30
_LEAST_OF_NORM = 1e-15


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two and more dimensions, Adam for the others.

    Args:
        params: parameters or groups, as every torch optimiser takes them.
        lr: spectral norm of a matrix's step (0.7 to 1.2 times it); a tenth of it is the rate of
            the vectors' Adam.
        betas: momentum of the matrices (Nesterov's form) and of Adam, and Adam's second moment.
        eps: of Adam.
        weight_decay: coefficient of the L2 term, added to the gradient.
        decoupled: instead, every step takes ``rate * weight_decay * w`` away, with the rate of the
            parameter's kind (Loshchilov, Hutter 2019).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self.decoupled = decoupled

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad
                if group["weight_decay"] and self.decoupled:
                    rate = group["lr"] * (1.0 if parameter.dim() >= 2 else _VECTOR_RATE)
                    parameter.mul_(1.0 - rate * group["weight_decay"])
                elif group["weight_decay"]:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                if parameter.dim() >= 2:
                    self._matrix_step(parameter, gradient, group)
                else:
                    self._vector_step(parameter, gradient, group)
        return loss

    def _matrix_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, beta = self.state[parameter], group["betas"][0]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = hardshrink(state["momentum"].lerp_(gradient, 1 - beta), _LEAST_MOMENTUM)
        state["momentum"] = momentum
        direction = gradient.lerp(momentum, beta)
        matrix = orthogonalise(direction.reshape(len(direction), -1))
        rate = group["lr"] * math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
        parameter.sub_(matrix.reshape(parameter.shape), alpha=rate)

    def _vector_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = (torch.zeros_like(parameter) for _ in range(2))
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
        square = state["square"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2 ** state["step"])
        parameter.sub_(mean / (square.sqrt() + group["eps"]), alpha=_VECTOR_RATE * group["lr"])


def orthogonalise(matrix: Tensor) -> Tensor:
    """About the closest matrix with orthonormal rows (or columns, if fewer): U V^T of U S V^T.

    Args:
        matrix: (rows, columns), floating point. Its singular values end near 1 (0.7 to 1.2); those
            far below a thousandth of its norm stay smaller. A zero matrix stays zero, and elements
            below 1e-15 of the norm count as zero.
    """
    x = hardshrink(matrix / (torch.linalg.matrix_norm(matrix) + 1e-30), _LEAST_OF_NORM)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x if wide else x.mT
