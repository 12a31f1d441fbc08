"""Recurrent networks as ONNX files: the same vectors, and the same frames one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recurrent import SIGMA, scene
from rotation import on_day
from torch import Tensor

from denoise_ext import reference
from denoise_ext.export import export_onnx
from denoise_ext.export.motion import PortableBlockMatch, PortableBlockWarp, PortableFuse
from denoise_ext.models.network import Network
from denoise_ext.models.rdxnet import RDXNet
from denoise_ext.models.rdxnet_blind import RDXNetBlind


def frames_of(kind: str) -> tuple[Tensor, Tensor]:
    """A frame and the one before, (2, 1, 48, 64)."""
    generator = torch.Generator().manual_seed(3)
    if kind == "noise":
        here, there = torch.rand(2, 2, 1, 48, 64, generator=generator)
        return here, there
    if kind == "flat":  # every vector costs the same
        return torch.full((2, 1, 48, 64), 0.4), torch.full((2, 1, 48, 64), 0.4)
    clip = torch.stack([scene(6, seed, (48, 64), 8.0) for seed in (1, 2)])
    step = {"slow": 1, "fast": 5}[kind]  # (1, 2) pixels a frame: the fast one leaves the search
    return clip[:, step], clip[:, 0]


@pytest.mark.parametrize("kind", ["noise", "flat", "slow", "fast"])
@pytest.mark.parametrize("sigma", [0.0, 7.3, 60.0])
def test_vectors_are_those_of_the_operator(kind, sigma):
    here, there = frames_of(kind)
    level = torch.tensor([sigma, sigma / 2]).reshape(2, 1, 1, 1)
    blocks = level * torch.linspace(0.5, 2.0, 6 * 8).reshape(1, 1, 6, 8)
    for levels in (level, blocks):
        wanted = reference.block_match(here, there, levels)
        found = PortableBlockMatch()(here, there, levels)
        assert torch.equal(found, wanted.long())
        assert kind in ("flat", "noise") or found.any()


def test_warp_and_fuse_are_those_of_the_operators():
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(2, 3, 24, 32, generator=generator)
    motion = torch.randint(-19, 20, (2, 3, 4, 2), generator=generator)  # beyond every edge
    wanted = reference.block_warp(x, motion.to(torch.int16))
    assert torch.equal(PortableBlockWarp()(x, motion), wanted)
    past = torch.rand(2, 7, 24, 32, generator=generator)
    past[:, 6, :12] = 0.0  # nothing is known there
    gate = torch.rand(2, 16, 6, 8, generator=generator)
    for level in (torch.full((2, 1, 1, 1), 0.1), torch.zeros(2, 1, 1, 1)):
        wanted = reference.recurrent_fuse(x, past, gate, level)
        torch.testing.assert_close(PortableFuse()(x, past, gate, level), wanted)


def ahead() -> RDXNet:
    model = RDXNet(1, widths=(4, 6), blocks=(1, 1), look_ahead=True)
    model.initialise(torch.Generator().manual_seed(5))
    return model.eval()


def blind() -> RDXNetBlind:
    model = RDXNetBlind(3, widths=(4, 6), blocks=(1, 1), estimator_width=4, estimator_depth=3)
    model.initialise(torch.Generator().manual_seed(6))
    return model.eval()


# Gray and colour. PyTorch takes most of a minute to export each.
@pytest.mark.parametrize("make", [on_day(2, ahead), on_day(6, blind)])
def test_a_recurrent_network_in_onnx_runtime(make, tmp_path):
    pytest.importorskip("onnxruntime")
    model = make()
    assert export_onnx(model, tmp_path / "net.onnx") < 1e-4
    run_beside(model, tmp_path / "net.onnx", scene(3).expand(-1, model.in_channels, -1, -1))


def run_beside(model: Network, path, frames: Tensor) -> None:
    """Three frames through the file, its state fed back, beside the step of PyTorch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, level = model.signature.state, torch.full((1, 1, 1, 1), SIGMA / 255)
    given = {"noise_map": level} if "noise_map" in model.signature.inputs else {}
    sigma = {"sigma": np.full(1, SIGMA, np.float32)} if given else {}
    others = [name for name in model.signature.outputs if name != "image"]
    assert [x.name for x in session.get_inputs()] == ["image", *sigma, *state]
    results = ["image_out", *others, *(f"next_{name}" for name in state)]
    assert [x.name for x in session.get_outputs()] == results
    kept = model.initial_state({"image": frames[:1]})
    fed = {name: tensor.numpy() for name, tensor in kept.items()}
    for frame in frames[:, None]:
        with torch.inference_mode():
            outputs, kept = model.compute({"image": frame, **given}, kept)
        made = dict(zip(results, session.run(None, {"image": frame.numpy(), **sigma, **fed})))
        fed = {name: made[f"next_{name}"] for name in state}
        wanted = {"image_out": outputs["image"], **{f"next_{n}": x for n, x in kept.items()}}
        # float32 sums in another order, through two or three frames; a block that took another
        # vector would be off by the texture itself, a tenth or so
        for name, tensor in wanted.items():
            torch.testing.assert_close(torch.from_numpy(made[name]), tensor, rtol=0, atol=1e-3)
