"""The geometry of networks, against what a change of single pixels does.

A row of pixels that are NaN makes NaN of everything that depends on it and of nothing else:
additions, products with any weight and activations keep it, so that what changes is what the
structure says.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import FAMILIES, tiny

from denoise_ext.analysis.extent import Axis
from denoise_ext.analysis.geometry import Geometry, GeometryError, describe
from denoise_ext.models import ImageDenoiser
from denoise_ext.nn import Conv2d, ConvTranspose2d, DepthwiseSeparableConv2d, to_torch


def changed(model: ImageDenoiser, size: int, rows: range, across: bool) -> Tensor:
    """(len(rows), size): whether a row r of NaN reaches row i of the result; r in rows.

    ``across``: columns in place of rows.
    """
    images = torch.rand(len(rows), model.in_channels, size, 4 * model.stride).double()
    for image, row in zip(images, rows, strict=True):
        image[:, row] = torch.nan
    images = images.transpose(2, 3) if across else images
    with torch.inference_mode():
        hit = model(images, 25.0 if model.needs_sigma else None).isnan().any(dim=1)
    return hit.any(dim=1) if across else hit.any(dim=2)


def measured(model: ImageDenoiser, expected: Geometry, across: bool) -> tuple[int, int]:
    """(receptive field, radius) of a block in the middle of an image."""
    model = to_torch(model).double()
    reach, stride = expected.radius + 2 * expected.stride, expected.stride
    start = -(-reach // stride) * stride  # a block that lies far enough from the border
    size = 2 * start + stride
    seen = changed(model, size, range(size), across)
    block = seen[:, start : start + stride]  # (changed row, row of the block)
    changing = block.any(dim=1).nonzero()
    distance = (block.nonzero() - torch.tensor([0, -start])).diff(dim=1).abs()
    return int(changing.max() - changing.min()) + 1, int(distance.max())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_reads_exactly_what_is_computed(name):
    model = tiny(name)
    geometry = describe(model)
    assert geometry.stride == model.stride
    assert describe(to_torch(model)) == geometry
    if geometry.global_operations:
        assert geometry.receptive_field is geometry.radius is None
        assert changed(to_torch(model).double(), 4 * geometry.stride, range(1), False).all()
    else:
        for across in (False, True):
            expected = (geometry.receptive_field, geometry.radius)
            assert measured(model, geometry, across) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_shifts_by_the_stride_shift_the_result(name):
    model = to_torch(tiny(name)).double()
    geometry = describe(model)
    if geometry.global_operations:
        pytest.skip("the whole image counts: it has no inside that a shift leaves alone")
    shift, margin = geometry.stride, geometry.radius
    size = -(-(2 * margin + 4 * shift) // shift) * shift
    x = torch.rand(1, model.in_channels, size + shift, size + shift, dtype=torch.float64)
    with torch.inference_mode():
        whole = model(x[..., :size, :size], 25.0)
        moved = model(x[..., shift:, shift:], 25.0)
    a = whole[..., margin + shift : size - margin, margin + shift : size - margin]
    b = moved[..., margin : size - shift - margin, margin : size - shift - margin]
    assert a.shape[-1] >= shift
    # the same sums in the same order, up to how the library divides the image
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tile_with_the_radius_as_overlap_is_a_part_of_the_whole(name):
    model = to_torch(tiny(name)).double()
    geometry = describe(model)
    if geometry.global_operations:
        pytest.skip("the whole image counts")
    start = 2 * geometry.stride  # an aligned tile's origin
    size = start + geometry.radius + 4 * geometry.stride + 1  # no multiple: the border is padded
    x = torch.rand(1, model.in_channels, size, size, dtype=torch.float64)
    with torch.inference_mode():
        whole, tile = model(x, 25.0), model(x[..., start:, start:], 25.0)
    inner = geometry.radius
    a, b = whole[..., start + inner :, start + inner :], tile[..., inner:, inner:]
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    # one pixel less would not do, but for phases that read less far and inactive ReLUs
    wider = inner - geometry.stride
    a, b = whole[..., start + wider :, start + wider :], tile[..., wider:, wider:]
    assert not torch.allclose(a, b, rtol=0, atol=1e-12)


# ---- networks made to be awkward


class Net(ImageDenoiser):
    """A network of one image channel from any function of the image."""

    family = "test"

    def __init__(self, body: nn.Module, stride: int = 1, needs_sigma: bool = False) -> None:
        super().__init__(1, needs_sigma)
        self.body, self.stride = body, stride

    def denoise(self, x, noise_map):
        return self.body(x)


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def chain(*layers: nn.Module, stride: int = 1) -> Net:
    torch.manual_seed(0)
    return Net(nn.Sequential(*layers), stride)


LOCAL = {
    "transposed 4x4": lambda: chain(
        Conv2d(1, 2, 2, stride=2), ConvTranspose2d(2, 1, 4, stride=2, padding=1), stride=2
    ),
    "transposed 2x2, phases differ": lambda: chain(
        Conv2d(1, 2, 5, stride=2, padding=2), ConvTranspose2d(2, 1, 2, stride=2), stride=2
    ),
    "stride 3 and nearest": lambda: chain(
        Conv2d(1, 2, 3, stride=3), nn.Upsample(scale_factor=3), Conv2d(2, 1, 3, padding=1), stride=3
    ),
    "bilinear": lambda: chain(
        nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), stride=2
    ),
    "bilinear by 3": lambda: chain(
        nn.AvgPool2d(3), nn.Upsample(scale_factor=3, mode="bilinear"), stride=3
    ),
    "bicubic": lambda: chain(
        nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bicubic"), stride=2
    ),
    "dilated": lambda: chain(Conv2d(1, 2, 3, padding=3, dilation=3), Conv2d(2, 1, 3, padding=1)),
    "one side only": lambda: chain(nn.ZeroPad2d((4, 0, 4, 0)), Conv2d(1, 1, 5)),
    "separable": lambda: chain(DepthwiseSeparableConv2d(1, 1, 5, padding=2)),
    "reflected": lambda: chain(Conv2d(1, 1, 7, padding=3, padding_mode="reflect")),
    "unshuffled twice": lambda: chain(
        nn.PixelUnshuffle(2), Conv2d(4, 4, 3, padding=1), nn.PixelUnshuffle(2),
        Conv2d(16, 16, 3, padding=1), nn.PixelShuffle(2), Conv2d(4, 4, 3, padding=1),
        nn.PixelShuffle(2), stride=4,
    ),
    "padded and cropped": lambda: chain(
        Call(lambda x: F.pad(x, (3, 3, 3, 3), mode="reflect")), Conv2d(1, 1, 3, padding=1),
        Call(lambda x: x[..., 3:-3, 3:-3]),
    ),
    "layer norm over channels": lambda: chain(
        Conv2d(1, 4, 3, padding=1),
        Call(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)),
        Conv2d(4, 1, 1),
    ),
    "channel mean": lambda: chain(
        Conv2d(1, 4, 3, padding=1), Call(lambda x: x - x.mean(1, keepdim=True)), Conv2d(4, 1, 1)
    ),
    "max of two": lambda: chain(
        Call(lambda x: torch.maximum(F.avg_pool2d(x, 3, 1, 1), F.max_pool2d(x, 7, 1, 3)))
    ),
    "split": lambda: chain(
        Conv2d(1, 4, 3, padding=1), Call(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1]),
        Conv2d(2, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_local_networks(name):
    model = LOCAL[name]().eval()
    geometry = describe(model)
    assert geometry.stride == model.stride
    assert geometry.global_operations == ()
    for across in (False, True):
        assert measured(model, geometry, across) == (geometry.receptive_field, geometry.radius)


@pytest.mark.parametrize(
    ("layer", "site"),
    [
        (nn.AdaptiveAvgPool2d(1), "body.0 (mean)"),
        (nn.AdaptiveAvgPool2d(7), "body.0 (_adaptive_avg_pool2d)"),
        (Call(lambda x: x - x.amax((2, 3), keepdim=True)), "body.0 (amax)"),
        (nn.InstanceNorm2d(1), "body.0 ("),
        (nn.GroupNorm(1, 1), "body.0 (native_group_norm)"),
    ],
)
def test_operations_on_the_whole_image_are_named(layer, site):
    model = chain(layer, Call(lambda x: F.interpolate(x.expand(-1, -1, *x.shape[2:]), (64, 64))))
    geometry = describe(model)
    assert geometry.receptive_field is geometry.radius is None
    assert len(geometry.global_operations) == 1
    assert geometry.global_operations[0].startswith(site)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Call(lambda x: x.flip(3)), r"body.0 \(flip\): an operator of which"),
        (Call(lambda x: x + torch.zeros(64, 64, device="meta")), r"body.0 \(add\): a constant"),
        (Call(lambda x: torch.cat([x, x], 3)), r"body.0 \(cat\): joins or splits along rows"),
        (Call(lambda x: x.transpose(2, 3)), r"body.0 \(transpose\)"),
        (Call(lambda x: x + F.avg_pool2d(x, 2)[..., :1]), "body.0: cannot run without"),
        (Call(lambda x: x * x.sum().item()), "body.0: cannot run without data"),
        (Call(lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")), "body.0"),
        (Call(lambda x: x[..., 1:].add_(x[..., :-1])), r"body.0 \(add_\): writes into"),
        (Call(lambda x: F.conv2d(x, x[:, :, :3, :3])), r"body.0 \(convolution\): takes something"),
        (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            r"body.0 \(upsample_bilinear2d\): align_corners=True",
        ),
        (nn.Upsample(size=(65, 65)), "no whole factor"),
        (nn.AvgPool2d(3, 1, 1, ceil_mode=True), "ceil_mode=True"),
        (Call(lambda x: x.view(1, 1, 32, 128)), r"body.0 \(view\): changes the shape"),
        (Call(lambda x: x[..., -9:]), "slices from the end"),
        (nn.AvgPool2d(2), "image: "),
    ],
)
def test_what_is_not_understood_is_refused_and_named(layer, message):
    with pytest.raises(GeometryError, match=message):
        describe(chain(layer))


def test_the_noise_map_counts():
    class Map(Net):
        def denoise(self, x, noise_map):
            return x - F.avg_pool2d(noise_map, 9, 1, 4)

    model = Map(nn.Identity(), needs_sigma=True)
    assert describe(model) == Geometry(9, 4, 1, ())


def test_only_denoisers():
    with pytest.raises(TypeError, match="denoise_ext model"):
        describe(nn.Conv2d(1, 1, 3))


def test_the_model_is_left_as_it_was():
    model = tiny("ffdnet_gray").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    describe(model)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_resolutions_that_do_not_fit_are_refused():
    half = Axis.of_input().through(lambda i: (2 * i,), into=2)
    with pytest.raises(ValueError, match="different resolution"):
        half.joined(Axis.of_input())
