"""What every family promises, whatever it is made of: one small network of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from zoo import FAMILIES, tiny

import denoise_ext
from denoise_ext.engine import Accelerated
from denoise_ext.models import ImageDenoiser, build_model, create_model, load_checkpoint, save_model
from denoise_ext.nn import to_torch

HALF = [torch.float16, torch.bfloat16]


def image(model: ImageDenoiser, *size: int, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, model.in_channels, *size, generator=generator)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to float32 sums in another order: a dozen layers of at most 100 terms each."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=12 * 100 * 2**-24 * scale)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (13, 6)])
def test_any_size_is_padded_by_reflection_and_cropped(name, size):
    model = to_torch(tiny(name))
    x, sigma = image(model, *size), 25.0 if model.needs_sigma else None
    height, width = size
    pad = ((0, 0), (0, 0), (0, -height % model.stride), (0, -width % model.stride))
    mode = {"reflect": "reflect", "replicate": "edge"}[model.pad_mode]
    padded = torch.from_numpy(np.pad(x.numpy(), pad, mode=mode))
    noise_map = torch.full((1, 1, 1, 1), 25 / 255) if model.needs_sigma else None
    with torch.inference_mode():
        close(model(x, sigma), model.denoise(padded, noise_map)[..., :height, :width])


@pytest.mark.parametrize("name", FAMILIES)
def test_own_kernels_compute_what_torch_computes(name):
    model = tiny(name)
    x = image(model, 19, 22)
    with torch.inference_mode():
        close(model(x, 25.0), to_torch(model)(x, 25.0))


@pytest.mark.parametrize("name", FAMILIES)
def test_accelerate_plans_the_whole_network(name, ours_is_faster):
    model = tiny(name)
    x = image(model, 19, 22)
    fast = denoise_ext.accelerate(model, (x, 25.0))
    whole = [row.variant for row in fast.report().rows if row.site.endswith(".compute_any_size")]
    assert whole == ["plan"], fast.report()
    with torch.inference_mode():
        for size in ((19, 22), (8, 9), (1, 1)):
            x = image(model, *size, n=1)
            close(fast(x, 25.0), to_torch(model)(x, 25.0))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_its_images(name):
    model = to_torch(tiny(name))
    x, sigma = image(model, 9, 14), torch.tensor([10.0, 50.0])
    with torch.inference_mode():
        both = model(x, sigma)
        for i in range(2):
            close(both[i : i + 1], model(x[i : i + 1], float(sigma[i])))
        if model.needs_sigma:
            maps = sigma.view(2, 1, 1, 1).expand(2, 1, 9, 14)
            close(model(x, maps), both)


@pytest.mark.parametrize("name", FAMILIES)
def test_blind_or_with_a_noise_map(name):
    model = tiny(name)
    if "noise_map" not in model.config:
        pytest.skip("a family of one kind")
    other = to_torch(tiny(name, noise_map=not model.needs_sigma))
    x = image(other, 8, 8)
    with torch.inference_mode():
        if other.needs_sigma:
            assert not torch.equal(other(x, 5.0), other(x, 50.0))
            with pytest.raises(ValueError, match="sigma is required"):
                other(x)
        else:
            assert torch.equal(other(x), other(x, 50.0))


def check_compiled(model: ImageDenoiser, backend: str, calls: list[tuple]) -> None:
    torch._dynamo.reset()  # it compiles a method for a limited number of classes
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for size, sigma in calls:
            x = image(model, *size)
            close(compiled(x, sigma), model(x, sigma))


@pytest.mark.rotates(turns=16)
@pytest.mark.parametrize("name", FAMILIES)
def test_compiles_in_one_graph(name):
    """With our layers at several sizes and noise levels, and with torch's."""
    calls = [((10, 7), 25.0), ((12, 16), 25.0), ((12, 16), 50.0)]
    check_compiled(tiny(name), "eager", calls)
    check_compiled(to_torch(tiny(name)), "eager", calls[:1])


@pytest.mark.rotates(turns=16)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if "gray" in name])
def test_compiles_to_machine_code(name, tmp_path, monkeypatch):
    """By PyTorch's own compiler, which takes seconds for each."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    check_compiled(tiny(name), "inductor", [((12, 16), 25.0)])


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_parameter(name):
    model = tiny(name).train()
    model(image(model, 8, 8), 25.0).square().sum().backward()
    for key, parameter in model.named_parameters():
        if key.startswith("posterior."):  # of training alone: test_dxnet_vae.py
            continue
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", FAMILIES)
def test_random_weights_depend_on_the_seed_alone_and_keep_the_signal(name):
    model, again = tiny(name), tiny(name)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1)
    for network, seed in ((model, 5), (again, 5)):
        network.initialise(torch.Generator().manual_seed(seed))
    for key, value in model.state_dict().items():
        if ".norm" not in key:  # layer normalisation is no random weight
            assert torch.equal(value, again.state_dict()[key]), key
    x = image(model, 16, 16)
    with torch.inference_mode():
        change = (to_torch(model)(x, 25.0) - x).square().mean() / x.square().mean()
    assert 0 < change < 30


@pytest.mark.parametrize("name", FAMILIES)
def test_written_and_read(name, tmp_path):
    model = tiny(name)
    save_model(model, tmp_path / "net.safetensors", torch.float32)
    again = load_checkpoint(tmp_path / "net.safetensors")
    assert again.config == model.config == build_model(model.config).config
    x = image(model, 8, 9)
    with torch.inference_mode():
        assert torch.equal(to_torch(again)(x, 25.0), to_torch(model)(x, 25.0))


# ---- half precision


def extreme_images(model: ImageDenoiser) -> dict[str, torch.Tensor]:
    """Images at the ends of what is accepted as one: floats up to 16 (tasks/value_range.py)."""
    size = (24, 20)
    chess = (torch.arange(size[0])[:, None] + torch.arange(size[1])) % 2
    flat = torch.ones(model.in_channels, *size)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(3))
    return {
        "black": 0 * flat,
        "white": flat,
        "brightest": 16 * flat,
        "darkest": -16 * flat,
        "chess": (32 * chess - 16) * flat,
        "noise": (16 * noise).clamp(-16, 16),
    }


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", [name for name in FAMILIES if "gray" not in name])
def test_half_precision_never_turns_black(name, dtype):
    model = tiny(name)
    images = extreme_images(model)
    x = torch.stack(list(images.values()))
    with torch.inference_mode():
        expected = to_torch(model)(x, 75.0)
        half = tiny(name).to(dtype)(x.to(dtype), 75.0)
        planned = Accelerated(model, "default", dtype, examine=False)(x, 75.0)
    assert half.dtype == dtype
    for index, kind in enumerate(images):
        # A black or saturated image is off by all of its size; rounding to 8 bits in a dozen
        # layers by some hundredths.
        size = max(float(expected[index].abs().max()), 1 / 255)
        for result in (half, planned):
            assert torch.isfinite(result[index]).all(), kind
            assert (result[index].float() - expected[index]).abs().max() < size / 4, kind


@pytest.mark.parametrize("dtype", HALF)
def test_means_over_large_images_are_summed_in_float32(dtype):
    # 300 * 300 ones: a sum in float16 ends at 65504 or 2048, in bfloat16 at 256
    model = create_model(
        "nafnet_gray", width=2, encoder_blocks=[1], middle_blocks=1, decoder_blocks=[1]
    )
    pool = model.encoders[0][0].sca[0]
    x = torch.ones(1, 2, 300, 300, dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(
            pool(x.contiguous(memory_format=layout)), torch.ones(1, 2, 1, 1).to(dtype)
        )
