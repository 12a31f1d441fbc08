"""VideoDenoiser with a lead-in: the first frames of a scene are denoised backwards in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recurrent import SIGMA, all_of, around_a_bad_frame, expected, network, pushed, scene
from torch import Tensor

from denoise_ext.models.rdxnet import RDXNet
from denoise_ext.tasks import VideoDenoiser


def wanted(model: torch.nn.Module, frames: Tensor, lead_in: int) -> Tensor:
    """A scene with so long a lead-in, from the network's own results forwards and backwards."""
    forwards, count = expected(model, frames), min(lead_in + 1, len(frames))
    backwards = expected(model, frames[:count].flip(0)).flip(0)
    early = count // 2
    return torch.cat([backwards[:early], forwards[early:]])


@pytest.mark.parametrize("lead_in", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7])
def test_the_first_half_of_the_lead_in_comes_from_later_frames(frames, lead_in):
    model, clip = network(), scene(frames)
    denoiser = VideoDenoiser(model, sigma=SIGMA, lead_in=lead_in)
    made = torch.stack(all_of(denoiser, clip))
    assert denoiser.delay == lead_in and denoiser.frames == frames
    torch.testing.assert_close(made, wanted(model, clip, lead_in), rtol=1e-4, atol=1e-4)
    assert denoiser.flush() == []
    torch.testing.assert_close(torch.stack(all_of(denoiser, clip)), made)


@pytest.mark.parametrize("lengths", [(6, 5), (7, 1, 5), (3, 2, 6), (1, 1, 1, 1)])
def test_no_scene_sees_another(lengths):
    model = network()
    scenes = [scene(count, seed=11 * i, size=(96, 128)) for i, count in enumerate(lengths)]
    made = all_of(VideoDenoiser(model, sigma=SIGMA, scene_cut=0.4, lead_in=3), torch.cat(scenes))
    each = torch.cat([wanted(model, clip, 3) for clip in scenes])
    torch.testing.assert_close(torch.stack(made), each, rtol=1e-4, atol=1e-4)


def test_results_after_the_lead_in_are_those_without():
    """But for the level, which is given here."""
    frames = scene(12)
    late = torch.stack(all_of(VideoDenoiser(network(), sigma=SIGMA, lead_in=4), frames))
    live = pushed(VideoDenoiser(network(), sigma=SIGMA), frames)
    assert torch.equal(late[2:], live[2:])
    assert not torch.allclose(late[:2], live[:2], atol=1e-3)


def test_tiles_equal_the_whole():
    frames = scene(6, size=(300, 413))
    tiled, whole = (
        torch.stack(all_of(VideoDenoiser(network(), sigma=SIGMA, tile=tile, lead_in=4), frames))
        for tile in (256, None)
    )
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


def test_memory_of_a_caller_and_of_frames():
    frames = scene(9)
    denoiser, buffer = VideoDenoiser(network(), sigma=SIGMA, lead_in=4), frames[0].clone()
    sizes, made = [], []
    for frame in frames:
        made.append(denoiser.push(buffer.copy_(frame)))
        sizes.append(denoiser.memory())
    buffer.zero_()
    got = torch.stack([result for result in [*made, *denoiser.flush()] if result is not None])
    torch.testing.assert_close(got, wanted(network(), frames, 4), rtol=1e-4, atol=1e-4)
    # Four frames and their results wait beside what is kept without a lead-in.
    live = VideoDenoiser(network(), sigma=SIGMA)
    pushed(live, frames)
    assert sizes[-1] == live.memory() + 8 * frames[0].nbytes and len(set(sizes[4:])) == 1


def test_a_bad_frame_of_the_lead_in_leaves_those_that_wait():
    frames = scene(6)
    got = around_a_bad_frame(VideoDenoiser(network(), sigma=SIGMA, lead_in=3), frames, 2)
    torch.testing.assert_close(got, wanted(network(), frames, 3), rtol=1e-4, atol=1e-4)


def test_networks_that_look_ahead_have_none():
    model = RDXNet(1, widths=(4, 6), blocks=(1, 1), look_ahead=True)
    model.initialise(torch.Generator().manual_seed(1))
    denoiser = VideoDenoiser(model.eval(), sigma=SIGMA, lead_in=4)
    made = torch.stack(all_of(denoiser, scene(5)))
    assert denoiser.delay == 1
    torch.testing.assert_close(made, expected(model, scene(5)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lead_in", [-1, 17, 2.0, True, "4", np.nan])
def test_refused(lead_in):
    with pytest.raises(ValueError, match="lead_in must be an integer from 0 to 16, got"):
        VideoDenoiser(network(), lead_in=lead_in)
