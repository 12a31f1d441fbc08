"""How far Winograd convolution in float32 may be from the exact result: derived from its matrices.

F(m x m, 3 x 3) computes tiles of m x m outputs from n x n inputs, n = m + 2, as
``A^T [ sum_c (G g_c G^T) * (B^T d_c B) ] A``.  Each of these sums is off by its length times the
unit roundoff, relative to the same sum of absolute values (Higham, section 3.1): C terms in the
products, at most n in every one of the four transforms, one rounding of ``G g G^T`` (which is
computed in float64).  So the error of an output is at most about

    (C + 4 n + 8) * eps * |A|^T [ sum_c (|G| |g_c| |G|^T) * (|B|^T |d_c| |B|) ] |A|,

8 for the scale of the outputs, the bias and the residual.  Scaling a row of G and dividing the same
row of A or B by it changes nothing here, so the matrices may be normalised as is convenient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = torch.finfo(torch.float32).eps
POINTS = {
    2: (0, 1, -1),
    4: (0, Fraction(3, 4), -Fraction(3, 4), Fraction(3, 2), -Fraction(3, 2)),
    6: (0, 1, -1, 2, -2, Fraction(1, 2), -Fraction(1, 2)),
}


def _times(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    """The product of two polynomials, lowest coefficient first."""
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return result


@cache
def matrices(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """A^T (m, n), G (n, 3) and B^T (n, n) by the construction of Toom and Cook."""
    points = [Fraction(p) for p in POINTS[m]]
    a = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    g, b = [], []
    everything = [Fraction(1)]
    for i, p in enumerate(points):
        others = [q for j, q in enumerate(points) if j != i]
        scale, polynomial = Fraction(1), [Fraction(1)]
        for q in others:
            scale *= p - q
            polynomial = _times(polynomial, [-q, Fraction(1)])
        g.append([p**k / scale for k in range(3)])
        b.append([*polynomial, Fraction(0)])
        everything = _times(everything, [-p, Fraction(1)])
    g.append([Fraction(0), Fraction(0), Fraction(1)])
    b.append(everything)

    def tensor(rows: list[list[Fraction]]) -> Tensor:
        return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)

    return tensor(a), tensor(g), tensor(b)


def convolve(x: Tensor, weight: Tensor, m: int, magnitude: bool = False) -> Tensor:
    """Winograd convolution in float64 of an already padded image (N, C, H, W).

    With ``magnitude``: the same with absolute values throughout, the sum that errors scale with.
    """
    a, g, b = matrices(m)
    if magnitude:
        x, weight, a, g, b = x.abs(), weight.abs(), a.abs(), g.abs(), b.abs()
    height, width = x.shape[-2] - 2, x.shape[-1] - 2
    rows, cols = -(-height // m), -(-width // m)
    x = F.pad(x, (0, cols * m - width, 0, rows * m - height))
    tiles = x.unfold(2, m + 2, m).unfold(3, m + 2, m)  # (N, C, rows, cols, n, n)
    v = b @ tiles @ b.T
    u = g @ weight @ g.T  # (K, C, n, n)
    y = a @ torch.einsum("zcyxij,kcij->zkyxij", v, u) @ a.T  # (N, K, rows, cols, m, m)
    return y.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def bound(x: Tensor, weight: Tensor, m: int) -> Tensor:
    """The largest error of each output, for the float64 values of a padded image and a weight."""
    terms = weight.shape[1] + 4 * (m + 2) + 8
    return terms * EPS * convolve(x, weight, m, magnitude=True)


def phases(
    weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """The ordinary convolutions that a transposed one consists of: (first output, (K, C, 3, 3)).

    Output ``first + i * stride`` is the convolution's output i where each axis is padded before its
    first input by what ``first_inputs`` says.  Empty where three inputs are not enough.
    """
    before = first_inputs(weight, stride, padding)
    sizes = weight.shape[2:]
    for axis in (0, 1):
        last = (stride[axis] - 1 + padding[axis]) // stride[axis]
        if last + before[axis] > 2:
            return
    for y in range(stride[0]):
        for x in range(stride[1]):
            kernel = weight.new_zeros((weight.shape[1], weight.shape[0], 3, 3))
            for i in range(3):
                for j in range(3):
                    u = y + padding[0] - (i - before[0]) * stride[0]
                    v = x + padding[1] - (j - before[1]) * stride[1]
                    if 0 <= u < sizes[0] and 0 <= v < sizes[1]:
                        kernel[:, :, i, j] = weight[:, :, u, v].T
            yield (y, x), kernel


def first_inputs(
    weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """How far before its own place an output of a transposed convolution may read, per axis."""
    reach = [weight.shape[2 + i] - 1 - padding[i] for i in (0, 1)]
    return tuple(math.trunc(r / s) for r, s in zip(reach, stride, strict=True))


def transposed_bound(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    m: int,
) -> Tensor:
    """:func:`bound` of a transposed convolution's outputs, ``size`` many; weight (C, K, kh, kw)."""
    result = x.new_zeros((x.shape[0], weight.shape[1], *size))
    before = first_inputs(weight, stride, padding)
    for (y, xx), kernel in phases(weight, stride, padding):
        part = result[:, :, y :: stride[0], xx :: stride[1]]
        after = [part.shape[2 + i] + 2 - before[i] - x.shape[2 + i] for i in (0, 1)]
        image = F.pad(x, (before[1], after[1], before[0], after[0]))
        if part.numel():
            part.copy_(bound(image, kernel, m))
    return result


def weight_gradient(x: Tensor, grad: Tensor, magnitude: bool = False) -> Tensor:
    """The gradient (K, C, 3, 3) of the weight, by the transpose of F(4x4, 3x3), in float64.

    ``x`` is the padded image (N, C, H + 2, W + 2), ``grad`` the output's gradient (N, K, H, W).
    With ``magnitude``: the same with absolute values throughout.
    """
    a, g, b = matrices(4)
    if magnitude:
        x, grad, a, g, b = x.abs(), grad.abs(), a.abs(), g.abs(), b.abs()
    below, right = -grad.shape[-2] % 4, -grad.shape[-1] % 4
    v = b @ F.pad(x, (0, right, 0, below)).unfold(2, 6, 4).unfold(3, 6, 4) @ b.T
    z = a.T @ F.pad(grad, (0, right, 0, below)).unfold(2, 4, 4).unfold(3, 4, 4) @ a
    return g.T @ torch.einsum("zcyxij,zkyxij->kcij", v, z) @ g


def weight_gradient_bound(x: Tensor, grad: Tensor) -> Tensor:
    """The largest error of each weight's gradient.

    The sum over tiles is as long as there are tiles; the transforms of an image and of the products
    have sums of 6 along both axes, that of the gradient of 4.
    """
    tiles = grad.shape[0] * -(-grad.shape[2] // 4) * -(-grad.shape[3] // 4)
    terms = tiles + 2 * (6 + 4 + 6) + 8
    return terms * EPS * weight_gradient(x, grad, magnitude=True)


def amplification(m: int) -> float:
    """How much larger than of direct convolution the sum of absolute terms is at most.

    For |d| and |g| at most 1, in the worst of the tile's outputs.
    """
    a, g, b = (matrix.abs() for matrix in matrices(m))
    worst = (a * (g.sum(1) * b.sum(1))).sum(1).max()
    return float(worst / 3) ** 2
