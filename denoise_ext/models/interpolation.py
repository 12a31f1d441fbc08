"""Networks between two networks."""

from __future__ import annotations

import copy

import torch

from denoise_ext.models.network import Network


@torch.no_grad()
def interpolate(first: Network, second: Network, share: float) -> Network:
    """The network whose weights are ``(1 - share) * first + share * second``.

    It lies between both where the second was trained from the first. Wang, Yu, Dong, Tang, Loy:
    "Deep Network Interpolation for Continuous Imagery Effect Transition", CVPR 2019.

    Args:
        first, second: of one configuration, on one device.
        share: 0 gives the first, 1 the second; above 1 lies beyond the second.

    Returns:
        A copy of ``first`` with these weights.

    Raises:
        ValueError: networks of different configurations, or a share outside of [0, 2].

    Example:
        >>> names = "dxnet_s_color", "dxnet_s_texture"
        >>> ends = [denoise_ext.models.create_model(name, pretrained=True) for name in names]
        >>> between = denoise_ext.models.interpolate(*ends, 0.5)
        >>> between(torch.rand(1, 3, 8, 8), 25.0).shape
        torch.Size([1, 3, 8, 8])
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 2:
        raise ValueError(f"share must be a number from 0 to 2, got {share!r}")
    if first.config != second.config:
        raise ValueError(f"first is {first.config}, but second {second.config}")
    between = copy.deepcopy(first)
    others = second.state_dict()
    for name, value in between.state_dict().items():
        if value.is_floating_point():
            value.lerp_(others[name].to(value), float(share))
    return between
