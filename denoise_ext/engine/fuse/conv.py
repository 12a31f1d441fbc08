"""Convolutions with what comes before and after them: one operator call each.

``pad -> convolution -> batch norm, factors -> + residual -> activation -> + residual``, of which
every part but the convolution may be missing.  The convolution may be a sum of several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from denoise_ext._tf32 import tf32_allowed
from denoise_ext.engine.capture.graph import Value
from denoise_ext.engine.fuse import fft, gate, onednn, shuffle
from denoise_ext.engine.fuse.activations import STEEPEST
from denoise_ext.engine.fuse.branches import Branch
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step, rms
from denoise_ext.ops.tuned import Tuned

# Root mean square of what an algorithm's rounding errors add to those of the direct sum, as a
# factor on it.  Winograd F(m x m, 3x3) multiplies transformed tiles: an error of the products
# reaches the output through A^T, scaled up by the norms of the rows of B^T and G: max over (i, u)
# of sum over p of (A[i,p] G[p,u] |B[p,:]|)^2, which for both dimensions together is 19.4 for
# F(4x4,3x3) with points 0, +-3/4, +-3/2, 114.2 for F(6x6,3x3) with 0, +-1, +-2, +-1/2, and 3 for
# F(2x2,3x3) with 0, +-1.
_AMPLIFICATION = {
    "direct": 1.0, "onednn": 1.0, "winograd2": 3.0, "winograd4": 19.4, "winograd6": 114.2,
}  # fmt: skip
# Rounding errors of a sum grow like a random walk, with the square root of its length (Higham and
# Mary 2019, A new approach to probabilistic rounding error analysis).  The factor 4 covers that the
# steps are not quite independent, and the activation's own rounding.
_WALK = 4.0
_LARGEST_STRIDE = 255  # that a weight can be packed for
# Tiles that Winograd F(4x4, 3x3) multiplies each weight with: with fewer, products take less time
# than the weights' way from memory.  A core (AVX-512) multiplies 32 pairs while it reads 4 bytes.
# F(2x2, 3x3) has 16 weights for 9, not 36, and four times the tiles.
_FEWEST_TILES = 32
_KEPT = 2**19  # bytes: of what is more, the second-level cache keeps little until the next call
_FEW_CHANNELS = 16  # transforms cost more than they save below, but for products with many outputs
_FEW_PRODUCTS = 384  # of such inputs with the outputs, from 12 x 32 on transforms save more
_FEW_OUTPUTS = 4  # up to here direct sums run over the inputs in vectors
_ALGORITHMS = {
    "strict": ("direct",),
    "default": ("winograd4", "direct"),
    "fast": ("winograd6", "winograd4", "direct"),
}


# What replaces convolutions: fastest on channels_last tensors.
CONVOLUTIONS = frozenset(
    {
        torch.ops.denoise_ext.conv2d_out.default,
        torch.ops.denoise_ext.conv_transpose2d_out.default,
        torch.ops.denoise_ext.conv2d_resampled_out.default,
        shuffle.convolve,
        gate.convolve,
    }
)


@dataclass(eq=False)
class ConvSite(Site):
    """A convolution, ordinary or transposed."""

    input: Value
    weight: Value
    bias: Value | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool
    output_padding: tuple[int, int] = (0, 0)
    border: str = "constant"
    scales: list[tuple[Any, ...]] = field(default_factory=list)  # as in a :class:`Branch`
    activation: str = "none"
    negative_slope: float = 0.01
    prelu_weight: Value | None = None
    residual: Value | None = None
    residual_position: str = "before"
    precision: str = "default"

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.input] + ([self.residual] if self.residual is not None else [])

    @property
    def branch(self) -> Branch:
        """What is linear in it."""
        return Branch(**{f.name: getattr(self, f.name) for f in fields(Branch)})

    @property
    def splits(self) -> bool:
        """See :class:`Site`: a sum of convolutions can be several."""
        return any(kind == "plus" for kind, *_ in self.scales)

    def folded(self, constants: Constants) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the scales multiplied in, computed in float64."""
        weight = constants.as_given(self.weight)
        if not self.scales:
            return weight, None if self.bias is None else constants[self.bias]
        key = ("folded", self._key())
        if key not in constants.packed or key[1] is None:
            w, b = self.branch.folded(constants)
            constants.packed[key] = w.to(weight.dtype), b.to(weight.dtype)
        return constants.packed[key]

    def _key(self) -> Any:
        """The key of the folded weight among the module's tensors, or None."""
        return self.branch.key()

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        own = self._algorithms()
        if not self._fits_onednn():
            return own
        # PyTorch's own convolution, but on a folded and packed weight.
        return [*own, "onednn"]

    def _fits_onednn(self) -> bool:
        return (
            onednn.CONVOLUTION is not None
            and self.precision != "strict"  # the order of its sums depends on the image's size
            and not self.transposed
            # Depthwise, packed weights are read no faster, but a sum's original takes several.
            and (self.weight.shape[1] > 1 or self.splits)
            and self.weight.device.type == "cpu"
            and self.weight.dtype == torch.float32
            and self.border == "constant"
            and self.activation in onednn.ACTIVATIONS
            and (self.residual is None or self._adds_first())
        )

    def _adds_first(self) -> bool:
        """Whether the skip connection is added before an activation, as oneDNN does for ReLU."""
        first = self.residual_position == "before" and self.activation == "relu"
        return first or self.activation == "none"

    def _waits_for_weights(self) -> bool:
        """Whether the weights of F(4x4, 3x3) take longer to read than to multiply."""
        n, channels, *pixels = self.input.shape
        axes = zip(pixels, self.padding, self.dilation, strict=True)
        tiles = n * math.prod(d * -(-(size + 2 * (p - d)) // (4 * d)) for size, p, d in axes)
        return tiles < _FEWEST_TILES and 36 * 4 * self.weight.shape[0] * channels > _KEPT

    def _algorithms(self) -> list[str]:
        """The package's own."""
        if self.transposed:
            # The operator chooses; or a weight is packed for one algorithm.
            packed = ["winograd4", "direct"] if self._has_phases() else ["direct"]
            if self.precision == "strict":
                packed = ["direct"]
            if self._packs_transposed() and tuple(self.weight.shape[2:]) == self.stride:
                return ["direct"]  # each output has one tap: no other algorithm saves any
            return ["auto", *packed] if self._packs_transposed() else ["auto"]
        plain = (
            self.weight.shape[2:] == (3, 3)
            and self.stride == (1, 1)
            and self.groups == 1
            and all(p % d == 0 for p, d in zip(self.padding, self.dilation, strict=True))
            and all(d <= n for d, n in zip(self.dilation, self.output.shape[2:], strict=True))
        )
        if not plain or self.weight.dtype == torch.float64 or self.weight.device.type != "cpu":
            if self.precision != "strict" and self._has_phases():
                return ["direct", "winograd4"]
            return ["direct", "fft"] if self._is_large() else ["direct"]
        algorithms = _ALGORITHMS[self.precision]
        if self._has_few_channels():
            return [*reversed(algorithms)]
        fewer_weights = self.precision != "strict" and self._waits_for_weights()
        return ["winograd2", *algorithms] if fewer_weights else [*algorithms]

    def _has_few_channels(self) -> bool:
        """Whether direct sums of a 3x3 convolution are faster than Winograd's algorithm."""
        outputs, inputs = self.weight.shape[:2]
        if outputs <= _FEW_OUTPUTS:
            return True
        return inputs < _FEW_CHANNELS and inputs * outputs < _FEW_PRODUCTS

    def _packs_transposed(self) -> bool:
        """Whether the operator can read a packed weight of a transposed convolution."""
        on_cpu = self.weight.device.type == "cpu"
        pixels = zip(self.output.shape[2:], self.stride, strict=True)
        return (
            on_cpu
            and self.groups == 1
            and self.dilation == (1, 1)
            and all(n >= s and s <= _LARGEST_STRIDE for n, s in pixels)
        )

    def _has_phases(self) -> bool:
        """Whether stride 2 divides it into convolutions that Winograd's algorithm computes.

        Each reads at most three inputs of a phase along each axis, or is read by as many.
        """
        kernel = self.weight.shape[2:]
        return (
            self.stride == (2, 2)
            and self.dilation == (1, 1)
            and self.groups == 1
            and min(kernel) >= 4
            and all(_reach(n, p) <= 3 for n, p in zip(kernel, self.padding, strict=True))
            and min(self.input.shape[1], self.output.shape[1]) >= _FEW_CHANNELS
            and self.weight.dtype != torch.float64
            and self.weight.device.type == "cpu"
        )

    def _is_large(self) -> bool:
        """Whether products of Fourier transforms may be fewer."""
        kernel = self.weight.shape[2:]
        return (
            min(kernel) >= fft.SMALLEST_KERNEL
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and self.border == "constant"
            and self.activation == "none"
            and self.residual is None
            and self.weight.dtype in (torch.float32, torch.float64)
            and self.weight.device.type == "cpu"
            and self.precision != "strict"
        )

    def _length(self) -> int:
        """Of the tiles that are transformed."""
        rows, columns = self.output.shape[2:]
        return fft.transform_length((rows, columns), max(self.weight.shape[2:]))

    def _fft_step(self, weight: Tensor, bias: Tensor | None, constants: Constants) -> Step:
        length, own = self._length(), self._key()
        key = ("packed", f"fft {length}", own)
        spectrum = constants.packed.get(key) if own is not None else None
        if spectrum is None:
            spectrum = constants.packed[key] = fft.spectrum_of(weight, length)
        kernel = tuple(weight.shape[2:])
        args = (self.input, spectrum, bias, kernel, self.padding, length, OUT)
        return Step(fft.convolve, args, {}, [self.output], any_layout=True)

    def _onednn_step(self, weight: Tensor, bias: Tensor | None, constants: Constants) -> Step:
        own = self._key()
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        packed = onednn.PACK_CONVOLUTION(weight, *geometry, self.input.shape)
        if own is not None:  # sizes that ask for the same layout share it
            key = ("packed", "onednn", own, geometry, onednn.layout_of(packed))
            packed = constants.packed.setdefault(key, packed)
        args = (self.input, self.residual, packed, bias, geometry, self.activation)
        return Step(onednn.convolve, args, {}, [self.output])

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        weight, bias = self.folded(constants)
        if variant == "fft":
            return self._fft_step(weight, bias, constants)
        if variant == "onednn":
            return self._onednn_step(weight, bias, constants)
        prelu = None if self.prelu_weight is None else constants[self.prelu_weight].reshape(-1)
        epilogue = (self.activation, self.negative_slope, prelu)
        if not self.transposed:
            return self._out_step(variant, weight, bias, epilogue, constants)
        packed = () if variant == "auto" else (self._packed(variant, weight, constants),)
        args = (
            self.input, weight, bias, self.stride, self.padding, self.output_padding, self.groups,
            self.dilation, *epilogue, self.residual, self.residual_position, self.precision, OUT,
            *packed,
        )  # fmt: skip
        op = torch.ops.denoise_ext.conv_transpose2d_out.default
        function = _writer(op, weight.device, {})
        over = self._overwritten()
        return Step(function, args, {}, [self.output], any_layout=True, overwrites=over)

    def _out_step(
        self, algorithm: str, weight: Tensor, bias: Tensor | None, epilogue: tuple[Any, ...],
        constants: Constants,
    ) -> Step:  # fmt: skip
        packed = None
        if weight.device.type == "cpu" and self.groups == 1:
            packed = self._packed(algorithm, weight, constants)
        args = (
            self.input, weight, packed, bias, self.stride, self.padding, self.dilation,
            self.groups, self.border, *epilogue, self.residual, self.residual_position, algorithm,
            OUT, self.precision,
        )  # fmt: skip
        packed_on_gpu = self._packed_on_gpu(constants)
        function = _writer(torch.ops.denoise_ext.conv2d_out.default, weight.device, packed_on_gpu)
        over = self._overwritten()
        return Step(function, args, {}, [self.output], any_layout=True, overwrites=over)

    def _overwritten(self) -> Value | None:
        """What the kernels read at the place that they write next, and nowhere else."""
        return self.residual if self.weight.device.type == "cpu" else None

    def _packed(self, algorithm: str, weight: Tensor, constants: Constants) -> Tensor:
        counts = self.transposed or algorithm != "direct"
        geometry = (self.stride, self.padding, self.transposed) if counts else ()
        key = ("packed", algorithm, self._key(), geometry)
        packed = constants.packed.get(key) if key[2] is not None else None
        if packed is None:
            packed = torch.ops.denoise_ext.conv2d_pack(
                weight, algorithm, 1, "default", *geometry
            )  # fmt: skip
            constants.packed[key] = packed
        return packed

    def _packed_on_gpu(self, constants: Constants) -> dict[Any, Any]:
        """Where all plans with this weight keep it as kernels on a GPU read it."""
        key = ("packed", "on a GPU", self._key())
        return constants.packed.setdefault(key, {}) if key[2] is not None else {}

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        ``4 a eps sqrt(L) rms(sum's terms, sum, what is added)`` with L terms per sum
        (Winograd: channels) and a the algorithm's amplification; eps is that of float32 sums
        (float64 for float64), plus the storage's for each rounding of a tensor narrower than that.
        """
        x, weight = env(self.input), env(self.weight)
        terms = weight[0].numel() if not self.transposed else weight.numel() // weight.shape[1]
        eps = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
        if variant == "fft":
            # Rounded in each stage of three transforms, and in a sum over the channels.
            terms = int(6 * math.log2(self._length())) + self.input.shape[1]
            variant = "direct"
        algorithms = _ALGORITHMS[self.precision] if variant == "auto" else [variant]
        amplification = max(_AMPLIFICATION[name] for name in algorithms)
        if amplification > 1:  # products of transformed tiles are summed over channels alone
            terms = self.input.shape[1] * math.prod((1, 1) if self.transposed else self.stride)
        walk = _WALK * amplification * eps * (terms + 16) ** 0.5
        if x.is_cuda and x.dtype == torch.float32 and (self.precision == "fast" or tf32_allowed()):
            # Two factors in tf32: rounded here, each by up to 2^-11 of itself; the original's may
            # be cut off, by up to 2^-10.
            walk += 2 * (2.0**-11 + 2.0**-10)
        # Original and replacement each round what they store, the original after every operator.
        storage = 0.0
        if x.dtype not in (torch.float32, torch.float64):
            storage = torch.finfo(x.dtype).eps * (2 + len(self.nodes))
        return (walk + storage) * self._magnitude(x, env)

    def _magnitude(self, x: Tensor, env: Callable[[Value], Tensor]) -> float:
        norms = torch.linalg.vector_norm(x, dim=(0, 2, 3), dtype=torch.float64)
        total = self.branch.magnitude(norms.square() / (x.numel() // x.shape[1]), env)
        total *= STEEPEST.get(self.activation, 1.0)
        # Twice the output: the activation may have cut off half of the sum.
        total += 2 * rms(env(self.output))
        return total + (rms(env(self.residual)) if self.residual is not None else 0.0)


def _reach(kernel: int, padding: int) -> int:
    """How many inputs of a phase, one after the other, the outputs of stride 2 read."""
    return (kernel - 1 - padding) // 2 + (padding + 1) // 2 + 1


def _writer(
    op: Callable[..., Any], device: torch.device, packed: dict[Any, Any]
) -> Callable[..., Any]:
    """The operator; on a GPU by the kernel that is measured to be the fastest there."""
    return Tuned(op, packed) if device.type == "cuda" else op


def is_convolution(step: Step) -> bool:
    """Whether one of `CONVOLUTIONS` computes it."""
    function = step.function
    return (function.op if isinstance(function, Tuned) else function) in CONVOLUTIONS
