"""Training on sequences: real clips, images in motion, exact resume, flicker in the validation."""

from __future__ import annotations

import csv
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_data import needs
from training_tools import assert_same
from training_tools import workplace as workplace

from denoise_ext.data.clips import list_clips, read_clips
from denoise_ext.data.motion import MovingImages
from denoise_ext.metrics import flicker, psnr
from denoise_ext.metrics.protocol import inputs_of, targets_of
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.checkpoint import load_state
from denoise_ext.training.distributed import Processes
from denoise_ext.training.losses import mse
from denoise_ext.training.task import INDEX
from denoise_ext.training.video_denoising import (
    ClipLoss,
    HeldOutClips,
    RealClips,
    Sequences,
    clip_sample,
)

av = pytest.importorskip("av")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"

CONFIG = """
[task]
name = "video_denoising"
[data]
train = "images"
clips = ["clips"]
clips_share = 0.5
crop = 16
frames = 4
[noise]
sigma_min = 5.0
sigma_max = 40.0
[model]
name = "rdxnet_s_gray"
options = { widths = [4, 6], blocks = [1, 1] }
[loss]
name = "psnr"
truncate = 2
[schedule]
peak = 2e-3
warmup_steps = 3
[validation]
images = 1
clips = 1
crop = 32
frames = 10
sigmas = [20.0, 40.0]
every = 6
[run]
out = "run"
steps = 12
batch_size = 2
seed = 3
threads = 1
checkpoint_every = 5
log_every = 4
device = "cpu"
tensorboard = "off"
"""


def write_clip(path: Path, frames: int, width: int = 72, height: int = 64, seed: int = 0) -> None:
    """A film without loss: a texture that moves by two pixels a frame."""
    y, x = np.mgrid[0 : height + 2 * frames, 0:width]
    texture = 127 + 60 * np.sin(x / 5 + seed) * np.cos(y / 7) + 30 * np.sin((x + y) / 2.3)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for i in range(frames):
            picture = texture[2 * i : 2 * i + height].astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "gray")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture
def place(workplace):
    """A working directory with images, three clips and ``video.toml``."""
    (workplace / "clips").mkdir()
    for i in range(3):
        write_clip(workplace / f"clips/{i}.mkv", 14 + i, seed=i)
    (workplace / "video.toml").write_text(CONFIG)
    return workplace


def config(*overrides: str):
    return load_config("video.toml", list(overrides))


def alone(rank: int = 0, count: int = 1) -> Processes:
    return Processes(rank, count, 0)


def rows_of(run: str) -> list[dict[str, str]]:
    with open(Path(run, "log.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"], row["waited"]
    return rows


def test_a_killed_run_ends_with_the_same_weights(place):
    whole = train(config())
    assert whole.finished
    for _ in range(3):
        assert not train(config("run.out=again", "run.minutes=1e-9")).finished
    again = train(config("run.out=again"))
    assert again.steps == whole.steps == 12
    first, second = (load_state(Path(run, "checkpoint.pt")) for run in ("run", "again"))
    assert_same(first["model"], second["model"])
    shared = [row for row in rows_of("again") if row["step"] in ("4", "8", "12")]
    assert shared == [row for row in rows_of("run") if row["step"] in ("4", "8", "12")]


def test_psnr_and_flicker_are_logged_and_psnr_decides(place):
    result = train(config())
    assert result.metric == "psnr"
    judged = [row for row in rows_of("run") if row["psnr_20"]]
    assert [row["step"] for row in judged] == ["6", "12"]
    for row in judged:
        for name in ("psnr_20", "psnr_40", "flicker_20", "flicker_40", "loss_last"):
            assert row[name] != ""
    last = {float(k): float(judged[-1][f"psnr_{k}"]) for k in ("20", "40")}
    assert result.validation == pytest.approx(last, abs=1e-3)
    assert list(Path("run/samples").iterdir())


def test_a_network_without_a_state_learns_frame_by_frame(place):
    options = "model.options={ widths = [4, 6], blocks = [1, 1] }"
    result = train(config("model.name=dxnet_xs_gray", options, "run.steps=6"))
    assert result.finished and set(result.validation) == {20.0, 40.0}


def test_a_batch_is_a_function_of_the_step(place):
    sequences = Sequences(config(), alone(), True)
    other = Sequences(config(), alone(), True)
    other.batch(1)
    assert_same(sequences.batch(5), other.batch(5))
    noisy, again = (inputs_of(sequences.batch(step))["image"] for step in (5, 6))
    assert not torch.equal(noisy, again)
    sample = sequences.batch(5)
    clean, noisy = targets_of(sample)["image"], inputs_of(sample)["image"]
    assert clean.shape == noisy.shape == (2, 4, 1, 16, 16)
    assert clean.min() >= 0 and clean.max() <= 1
    left = (noisy - clean).flatten(1).std(1) * 255
    assert torch.allclose(left, sample["sigma"], rtol=0.15)
    assert torch.equal(inputs_of(sample)["noise_map"].flatten() * 255, sample["sigma"])


def test_processes_share_the_sequences_of_one(place):
    """Two processes with two sequences each have those of one process with four."""
    whole = Sequences(config("run.batch_size=4"), alone(), True).batch(7)
    parts = [Sequences(config(), alone(rank, 2), True).batch(7) for rank in (0, 1)]
    for name, x in whole.items():
        assert torch.equal(x, torch.cat([part[name] for part in parts])), name
    assert parts[1][INDEX].tolist() == [2, 3]


def test_held_out_sequences_are_not_trained_on(place):
    sequences = Sequences(config("validation.clips=1"), alone(), True)
    assert [len(clip) for clip in sequences.real.clips] == [14, 16]  # the second of three is not
    still, clip = sequences.held_out
    assert still.shape == (10, 1, 32, 32) and clip.shape == (10, 1, 32, 32)
    whole = read_clips([Path("clips/1.mkv")], 1)[0]
    expected = torch.from_numpy(whole[2:12, :, 2:34]).permute(0, 3, 1, 2) / 255
    assert torch.equal(clip, expected.float())


def test_another_clip_is_other_data(place):
    files = dict(Sequences(config(), alone(), True).files)
    write_clip(Path("clips/1.mkv"), 30)
    assert dict(Sequences(config(), alone(), True).files) != files
    train(config("run.steps=6", "run.minutes=1e-9"))
    write_clip(Path("clips/1.mkv"), 34)
    with pytest.raises(ConfigError, match="files"):
        train(config("run.steps=6"))


# ---- clips


def test_clips_are_halved_by_their_mean(place):
    frames = read_clips(list_clips(["clips"]), 1)
    assert [clip.shape for clip in frames] == [(14 + i, 32, 36, 1) for i in range(3)]
    with av.open("clips/0.mkv") as video:
        first = next(video.decode(video=0)).to_ndarray().astype(float)
    mean = first.reshape(32, 2, 36, 2).mean((1, 3))
    assert np.abs(frames[0][0, ..., 0] - mean).max() <= 0.5
    assert read_clips([Path("clips/0.mkv")], 3)[0].shape == (14, 32, 36, 3)


def test_real_sequences_are_parts_of_a_clip(place):
    clips = read_clips(list_clips(["clips"]), 1)
    real = RealClips(clips, 16, 5)
    rng = np.random.default_rng(0)
    places = {frame.tobytes() for clip in clips for frame in parts_of(clip, 16)}
    for _ in range(20):
        made = (real.sequence(rng) * 255).round().byte().numpy()
        assert made.shape == (5, 1, 16, 16)
        for frame in made[:, 0]:
            turned = [np.rot90(frame, k) for k in range(4)]
            found = [x for t in turned for x in (t, t[:, ::-1])]
            assert any(np.ascontiguousarray(x).tobytes() in places for x in found)


def parts_of(clip: np.ndarray, crop: int):
    for frame in clip[..., 0]:
        for y in range(frame.shape[0] - crop + 1):
            for x in range(frame.shape[1] - crop + 1):
                yield np.ascontiguousarray(frame[y : y + crop, x : x + crop])


@pytest.mark.parametrize(
    "overrides, name",
    [
        (["data.clips=['nowhere']"], "nowhere"),
        (["data.clips=['images']"], "images"),
        (["data.frames=17"], "data.clips"),
        (["data.crop=12"], "data.crop"),
        (["data.channels=3"], "data.channels"),
        (["validation.clips=3"], "validation"),
        (["task.name=image_denoising"], "data.clips"),
        (["task.name=image_denoising", "data.clips=[]", "loss.flicker=0.3"], "loss.flicker"),
        (["data.frames=1", "loss.flicker=0.3"], "loss.flicker"),
        (["loss.name=ssim", "loss.flicker=0.3"], "loss.flicker"),
        (["model.name=ffdnet_color_small", "model.options={}"], "data.channels"),
        (["noise.sigma_min=0.0", "noise.sigma_max=55.0", "data.permute_channels=true"], "permute"),
        (["data.pairs=['a*', 'b*']"], "data.pairs"),
        (["task.options={ a = 1 }"], "task.options"),
        (["data.train=''"], "data"),
    ],
)
def test_what_does_not_fit_is_named(place, overrides, name):
    with pytest.raises(ConfigError, match=name):
        train(config(*overrides))


# ---- images in motion


def ramp(seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:90, 0:100]
    return (127 + 80 * np.sin(x / 6 + seed) * np.cos(y / 9)).astype(np.uint8)[..., None]


def test_moving_images_depend_on_the_generator_alone():
    moving = MovingImages([ramp(), ramp(1)], 32, 6)
    first, second = (moving.sequence(np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (6, 1, 32, 32)
    assert not torch.equal(first, moving.sequence(np.random.default_rng(4)))


def test_moving_images_move_stand_still_fade_and_cut():
    """Of many sequences some have each of these, and none leaves [0, 1]."""
    moving = MovingImages([ramp(), ramp(1)], 32, 6)
    still = moved = faded = cut = 0
    for seed in range(150):
        made = moving.sequence(np.random.default_rng(seed))
        assert made.min() >= 0 and made.max() <= 1
        change = (made[1:] - made[:-1]).abs().mean((1, 2, 3))
        means = made.mean((1, 2, 3))
        still += bool(change.max() < 1e-6)
        moved += bool(change.min() > 0.01)
        faded += bool((means[0] - means[-1]).abs() > 0.2)
        cut += bool(change.max() > 8 * change.median() and change.max() > 0.1)
    assert still > 3 and moved > 40 and faded > 3 and cut > 1


def test_colour_and_16_bit_images_keep_their_values():
    colour = np.repeat(ramp(), 3, axis=2) * np.array([1, 0, 1], np.uint8)
    deep = colour.astype(np.uint16) * 257
    made = [MovingImages([x], 24, 3).sequence(np.random.default_rng(5)) for x in (colour, deep)]
    assert made[0].shape == (3, 3, 24, 24)
    assert not made[0][:, 1].any()
    torch.testing.assert_close(made[0], made[1], atol=1e-6, rtol=1e-5)


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="images"):
        MovingImages([], 16, 4)


# ---- measures


def test_flicker_is_the_change_of_the_error():
    truth = torch.full((4, 1, 60, 60), 0.5)
    error = torch.zeros_like(truth)
    error[1::2] = 0.02  # of every second frame
    assert flicker(truth + error, truth) == pytest.approx(0.02 * 255, rel=1e-5)
    assert flicker(truth + 0.1, truth) == pytest.approx(0.0, abs=1e-6)  # the same in all frames
    moving = truth.clone()
    moving[:, :, :, :30] += torch.arange(4.0).reshape(4, 1, 1, 1) / 10
    error = torch.zeros_like(truth)
    error[1::2, :, :, :20] = 0.02  # where it moves, which does not count
    assert flicker(moving + error, moving) == pytest.approx(0.0, abs=1e-6)


def test_flicker_of_nothing_still_is_none():
    truth = torch.rand(4, 1, 60, 60)
    assert math.isnan(flicker(truth, truth))
    with pytest.raises(ValueError, match="shape"):
        flicker(truth, truth[:3])


def test_validation_counts_settled_frames(place):
    clips = [torch.rand(10, 1, 24, 24), torch.rand(6, 1, 24, 24)]
    validator = HeldOutClips(config(), clips, True)
    made = []
    for sample in validator.samples(20.0):
        clean = targets_of(sample)["image"]
        output = clean.clone()
        output[:, 0] += 0.3
        output[:, -1] += 0.1
        made.append(validator.figures({"image": output.clamp(0, 1)}, sample)["psnr"])
    expected = []
    for clip, first in zip(clips, (8, 0)):
        wrong = clip.clone()
        wrong[0] += 0.3
        wrong[-1] += 0.1
        expected.append(psnr(wrong.clamp(0, 1)[first:], clip[first:]).mean().item())
    assert made == pytest.approx(expected)


def test_samples_have_the_level_only_where_it_is_taken():
    x = torch.rand(2, 3, 1, 8, 8)
    sample = clip_sample(x, x, torch.tensor([10.0, 20.0]), False, 4)
    assert "inputs.noise_map" not in sample
    assert sample[INDEX].tolist() == [4, 5]


def test_the_loss_counts_changes_from_frame_to_frame():
    """Beside the frames themselves, of which the first two count less."""
    generator = torch.Generator().manual_seed(0)
    made, clean = torch.rand(2, 2, 4, 1, 8, 8, generator=generator).unbind(0)
    sample = clip_sample(clean, clean, torch.tensor([10.0, 20.0]), False, 0)
    squared = (made - clean).square().mean((0, 2, 3, 4))
    frames = (squared * torch.tensor([1 / 3, 2 / 3, 1, 1])).sum() / 3
    changes = ((made[:, 1:] - made[:, :-1]) - (clean[:, 1:] - clean[:, :-1])).square().mean()
    for weight in (0.0, 0.3):
        loss, parts = ClipLoss(mse, flicker=weight)(lambda _: {"image": made}, sample, 0)
        torch.testing.assert_close(loss, frames + weight * changes)
        torch.testing.assert_close(parts["loss_last"], squared[-1])


# ---- recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("rdxnet*.toml")), ids=lambda p: p.name)
def test_recipes_do_not_train_on_test_clips(path):
    with open(path, "rb") as file:
        data = tomllib.load(file)["data"]
    root = needs("video/clips/test")
    tested = {file.stem for file in root.iterdir()}
    trained = list_clips([root.parents[2] / source for source in data["clips"]])
    assert trained
    assert not tested & {file.stem for file in trained}
    assert root not in {file.parent for file in trained}
