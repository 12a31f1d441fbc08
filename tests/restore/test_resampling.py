"""`imresize` against MATLAB's published figures, Pillow, PyTorch and its own definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from shared_data import image_folder

from denoise_ext.metrics import luma, psnr
from denoise_ext.resampling import contributions, imresize


def waves(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


# MATLAB, on luma: Timofte, De Smet, Van Gool, ACCV 2014, and every table of upscalers since
@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_published_psnr_of_set5(scale, published):
    found = []
    for path in image_folder("test/Set5"):
        array = np.asarray(Image.open(path).convert("RGB")).copy()
        x = torch.from_numpy(array).permute(2, 0, 1)[None].double() / 255
        rows, columns = (side // scale * scale for side in x.shape[-2:])
        large = (luma(x[..., :rows, :columns]) * 255).round() / 255
        made = imresize(imresize(large, Fraction(1, scale)), scale)
        made = (made * 255).round() / 255
        inner = (..., slice(scale, -scale), slice(scale, -scale))
        found.append(psnr(made[inner], large[inner]).item())
    assert sum(found) / len(found) == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize(("old", "factor"), [(24, 0.5), (24, 1 / 3), (23, 2), (20, 1.5)])
def test_inside_it_is_antialiased_bicubic_of_others(old, factor):
    """torch.nn.functional.interpolate(mode="bicubic", antialias=True), which does as Pillow."""
    x = waves(1, 1, old, old)
    made = imresize(x, factor)
    new = made.shape[-1]
    if new != old * factor:
        pytest.skip("other libraries take the ratio of whole sizes")
    theirs = F.interpolate(x, size=(new, new), mode="bicubic", antialias=True)
    edge = int(3 * max(factor, 1)) + 1
    inner = (..., slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(made[inner], theirs[inner], rtol=0, atol=1e-6)
    pillow = Image.fromarray(x[0, 0].float().numpy()).resize((new, new), Image.BICUBIC)
    expected = torch.from_numpy(np.asarray(pillow).copy()).double()
    torch.testing.assert_close(made[0, 0][inner], expected[inner], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "factor"), [(7, Fraction(1, 2)), (5, Fraction(3)), (1, 2), (3, 0.4)]
)
def test_definition_and_mirrored_edges(size, factor):
    """Each value is the sum of MATLAB's contributions over an image mirrored without end."""
    x = waves(size)
    made = imresize(x.expand(size, size), factor)[0]
    assert len(made) == -(-size * Fraction(factor).limit_denominator(100) // 1)
    far = 40 * size
    mirrored = torch.cat([x, x.flip(0)]).repeat(80)  # its middle begins at `far`
    stretch = min(float(factor), 1.0)
    for index, value in enumerate(made):
        centre = (index + 0.5) / float(factor) - 0.5
        places = torch.arange(-far, far)
        t = ((centre - places.double()) * stretch).abs()
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        kernel = torch.where(t <= 1, near, torch.where(t < 2, outer, torch.zeros_like(t)))
        kernel = kernel / kernel.sum()
        expected = (kernel * mirrored[places + far]).sum()
        assert value.item() == pytest.approx(expected.item(), abs=1e-12)


def test_constants_stay_and_gradients_flow():
    flat = torch.full((2, 3, 9, 11), 0.25, dtype=torch.float64)
    for factor in (0.3, Fraction(1, 2), 2, 2.5):
        torch.testing.assert_close(
            imresize(flat, factor), torch.full_like(imresize(flat, factor), 0.25)
        )
    x = waves(1, 1, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: imresize(x, Fraction(1, 2)), x)
    _, weights = contributions(9, Fraction(1, 3))
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "scale", "named"),
    [
        (np.zeros((4, 4)), 2, "x must be.*ndarray"),
        (torch.zeros(4, 4, dtype=torch.uint8), 2, "x must be.*uint8"),
        (torch.zeros(4), 2, r"x must have shape.*\(4,\)"),
        (torch.zeros(0, 4), 2, "x must have shape"),
        (torch.zeros(4, 4), 0, "scale.*0"),
        (torch.zeros(4, 4), float("nan"), "scale.*nan"),
        (torch.zeros(4, 4), 1e-9, "scale.*1e-09"),
        (torch.zeros(4, 4), "2", "scale.*str"),
        (torch.zeros(4, 4), True, "scale.*bool"),
    ],
)
def test_bad_arguments(x, scale, named):
    with pytest.raises((TypeError, ValueError), match=named):
        imresize(x, scale)


def test_luma_of_bt_601():
    """MATLAB's rgb2ycbcr of the primaries: 16, 235, 81.481, 144.553, 40.966."""
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).double()
    expected = torch.tensor([16, 235, 81.481, 144.553, 40.966]).double() / 255
    torch.testing.assert_close(luma(colours[..., None, None])[:, 0, 0, 0], expected)
    gray = waves(1, 1, 3, 3)
    assert torch.equal(luma(gray), gray)
    for wrong in (torch.zeros(1, 4, 2, 2), torch.zeros(3, 2, 2)):
        with pytest.raises(ValueError, match="x must have shape"):
            luma(wrong)
    with pytest.raises(TypeError, match=r"x must be.*uint8"):
        luma(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
