"""DXCodec: the transform it begins with, causal contexts, rates, whole numbers of a sealed one."""

from __future__ import annotations

import pytest
import torch
from codecs_small import picture, untrained

from denoise_ext.analysis.geometry import GeometryError, describe
from denoise_ext.models import create_model
from denoise_ext.models.block_transform import Basis
from denoise_ext.models.coded_prior import FRACTION, OFFSETS, SCALES, frequencies_of, rounded_prior
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.models.latent_prior import GROUP, bits_of, bounded, rounded


def image(height: int = 48, width: int = 64) -> torch.Tensor:
    pixels = torch.from_numpy(picture(height, width)).float() / 255
    return pixels.permute(2, 0, 1)[None]


def inputs(x: torch.Tensor, level: float = 0.5) -> dict[str, torch.Tensor]:
    n = len(x)
    return {
        "image": x,
        "noise_map": torch.zeros(n, 1, 1, 1),
        "level": torch.full((n, 1, 1, 1), level),
    }


def test_the_named_network():
    with torch.device("meta"):
        network = create_model("dxcodec")
    weights = sum(p.numel() for p in network.parameters())
    assert weights * 2 < 3e6 and network.stride == 16  # bytes in float16


def test_the_basis_is_orthonormal_and_begins_with_the_mean():
    basis = Basis.of_pixels(3)
    for most in (12, 40, 64):
        basis, weights = basis.merged(most)
        flat = basis.functions.flatten(1)
        torch.testing.assert_close(flat @ flat.T, torch.eye(len(basis)))
        assert weights.shape[0] == len(basis)
    first = basis.functions[0]
    assert bool((first == first[0, 0, 0]).all())  # gray


def test_training_begins_with_a_transform_and_its_inverse():
    """With all basis functions kept, and no blocks, rounding is the only loss."""
    network = DXCodec(widths=[16], blocks=[1], latents=48, rates=2)
    network.initialise(torch.Generator().manual_seed(0))
    for block in network.modules():
        if type(block).__name__ == "ResidualBlock":
            torch.nn.init.zeros_(block.conv2.weight)
    x = image()
    with torch.inference_mode():
        found = network.analysis.compute({"image": x, "noise_map": torch.zeros(1, 1, 1, 1)}, {})[0]
        back = network.synthesis.compute(found, {})[0]["image"]
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)  # 12 to 48 sums of float32


def test_a_context_is_decoded_before_and_in_the_same_tile():
    network = untrained().double()
    shape = (1, 32, 4, 5)
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = network.level_weights(torch.tensor([0.3], dtype=torch.float64))
    mean, scale = network.prior(values, weights)
    y, x, c = 2, 2, 20  # of the second group
    [gradient] = torch.autograd.grad(mean[0, c, y, x] + scale[0, c, y, x], values)
    seen = (gradient[0] != 0).nonzero().tolist()
    order = {(k, i, j) for k, i, j in seen}
    before = {
        (k, i, j)
        for k in range(32)
        for i, j in ((1, 1), (1, 2), (1, 3), (2, 1))
    } | {(k, 2, 2) for k in range(GROUP)}  # fmt: skip
    assert order == before


def test_bits_of_all_numbers_are_those_of_one_choice():
    numbers = torch.arange(-400, 401, dtype=torch.float64)
    for mean, scale in ((0.0, 0.05), (0.3, 1.0), (-2.4, 20.0)):
        bits = bits_of(numbers, torch.tensor(mean), torch.tensor(scale))
        # each has 2^-20 on top, so that its logarithm is finite
        assert (2.0**-bits).sum().item() == pytest.approx(1.0, abs=802 * 2.0**-20)


def test_a_bounded_scale_is_led_back_and_rounding_passes_gradients():
    x = torch.tensor([0.01, 1.0, 100.0], requires_grad=True)
    for sign, passes in ((-1.0, [1, 1, 0]), (1.0, [0, 1, 1])):
        [gradient] = torch.autograd.grad(bounded(x), x, torch.full((3,), sign))
        assert (gradient != 0).int().tolist() == passes
    [gradient] = torch.autograd.grad(rounded(x).sum(), x)
    assert gradient.tolist() == [1, 1, 1]


def test_higher_levels_take_more_bits_and_leave_less_error():
    network, x = untrained(), image()
    bits, errors = [], []
    with torch.inference_mode():
        for level in (0.0, 0.3, 0.7, 1.0):
            made = network(inputs(x, level))[0]
            bits.append(made["bits"].sum().item())
            errors.append((made["image"] - x).square().mean().item())
    assert bits == sorted(bits) and errors == sorted(errors, reverse=True)


def test_bits_in_training_are_those_of_noise():
    network, x = untrained().train(), image()
    torch.manual_seed(0)
    one, other = (network(inputs(x))[0] for _ in range(2))
    assert not torch.equal(one["bits"], other["bits"])
    assert torch.equal(one["image"], other["image"])
    network.eval()
    assert torch.equal(network(inputs(x))[0]["bits"], network(inputs(x))[0]["bits"])


def test_geometry_of_the_parts():
    network = untrained()
    with pytest.raises(GeometryError, match="latent"):
        describe(network)
    assert describe(network.synthesis).stride == 1
    assert describe(network.analysis).stride == network.stride == 16


def test_whole_numbers_are_close_to_the_prior():
    network = untrained()
    coded = rounded_prior(network.prior)
    values = torch.randn(32, 6, 7, generator=torch.Generator().manual_seed(2)).mul(3).round()
    quality = 50
    weights = network.level_weights(torch.tensor([quality / 100]))
    with torch.inference_mode():
        mean, scale = network.prior(values[None], weights)
        sums = coded.sums(values, quality)
    unit = 1 << FRACTION
    # each of the 5 * 32 weights is rounded by half a unit at most, times magnitudes below 16
    bound = (5 * 32 * 16 * 0.5 + 6) / unit
    torch.testing.assert_close(sums[0].double() / unit, mean[0].double(), rtol=0, atol=bound)
    torch.testing.assert_close(
        (sums[1].double() / unit).clamp(0.05, 60), scale[0].double(), rtol=0, atol=bound
    )


def test_frequencies_follow_counts():
    counts = torch.zeros(OFFSETS * SCALES, 128, dtype=torch.float64)
    counts[0, 63], counts[0, 64] = 3e6, 1e6
    table = frequencies_of(counts).long()
    assert bool((table.sum(1) == 4096).all()) and bool((table[:, 127] >= 1).all())
    assert abs(table[0, 63].item() - 3072) <= 2 and abs(table[0, 64].item() - 1024) <= 2


def test_wrong_options():
    for options, named in (
        ({"latents": 40}, "latents.*40"), ({"widths": [16]}, "widths"), ({"rates": 1}, "rates.*1"),
        ({"channels": 0}, "channels.*0"), ({"sealed": "no"}, "sealed.*true or false"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=named):
            DXCodec(**options)
