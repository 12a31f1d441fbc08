"""What a network computes per pixel, counted from its own graph."""

from __future__ import annotations

from typing import cast

import torch

from denoise_ext.analysis.geometry import example, without_data
from denoise_ext.models.network import Network
from denoise_ext.nn import to_torch

_SIZE = 1024  # pixels; what is computed once per image is then spread thin


def gflop_per_megapixel(model: Network) -> float:
    """10^9 floating-point operations for an image of 10^6 pixels.

    Multiplications and additions of the convolutions, counted one by one: a multiply-add is two.
    Everything else (activations, normalisation, sums of skip connections) is left out, as usual in
    the literature. It is the count of the textbook algorithm; Winograd's needs fewer.

    Raises TypeError when ``model`` is no network of this package.

    Example:
        >>> network = denoise_ext.models.create_model("dxnet_s_gray")
        >>> round(denoise_ext.analysis.gflop_per_megapixel(network))
        198
    """
    if not isinstance(model, Network):
        raise TypeError(f"model must be a denoise_ext model, got {type(model).__name__}")
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and needed here alone

    network = cast("Network", to_torch(without_data(model)).eval())
    side = -(-_SIZE // model.stride) * model.stride
    inputs, state = example(network, side, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.compute(inputs, state)
    return counter.get_total_flops() / side**2 * 1e6 / 1e9
