"""Adapting a network to files of one's own: objectives, what is kept, and wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext.cli import main
from denoise_ext.io import read_image, write_image
from denoise_ext.models import create_model, load_checkpoint, read_metadata, save_model
from denoise_ext.tasks import Denoiser
from denoise_ext.training import adapt
from denoise_ext.training.adapt import FILES_NAME, PLAN
from denoise_ext.training.own_images import OwnImages

FILES, SIDE = 12, 128
OFFSET = 0.05  # of the start: a few steps mend a part of it
SHORT = 1e-4  # minutes: as few steps as there can be


def clean_image(index: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    return 0.5 + 0.3 * np.sin(4 * x + index) * np.cos(3 * y - index)


def noise(seed: int, channels: int = 1, level: float = 20.0) -> np.ndarray:
    shape = (SIDE, SIDE) if channels == 1 else (SIDE, SIDE, channels)
    return np.random.default_rng(seed).normal(size=shape) * level / 255


def store(path: Path, image: np.ndarray, dtype=np.uint8) -> None:
    path.parent.mkdir(exist_ok=True)
    write_image(path, (image.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """``own`` with noisy images, ``start.safetensors`` with a network that does nothing but add."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(FILES):
        store(Path(f"own/{i:02}.png"), clean_image(i) + noise(i))
    torch.manual_seed(0)
    network = create_model("ffdnet_gray", width=16, depth=3, predicts="noise").eval()
    with torch.no_grad():
        *_, weight, bias = network.parameters()
        weight.mul_(1e-3)
        bias.fill_(OFFSET)
    save_model(network, "start.safetensors", torch.float32)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> int:
    return main(["adapt", *arguments, "--minutes", str(SHORT), "--threads", "1"])


def psnr_of(model: str, path: str, clean: np.ndarray) -> float:
    found = Denoiser(model)(path) / 255
    return float(-10 * np.log10(np.square(found - clean).mean()))


def test_noisy_files_alone(work, capsys):
    """The gain that is claimed is a gain, on files that were not given."""
    assert run("own", "-o", "net.safetensors", "--start", "start.safetensors") == 0
    out = capsys.readouterr().out
    assert "net.safetensors" in out and "dB" in out and "standard error" in out
    facts = read_metadata("net.safetensors")["training"]
    assert facts["adapted"]["kinds"] == {"white": FILES} and facts["adapted"]["gain"] > 0
    assert facts["config"]["loss"]["target"] == "sure"
    store(Path("other/new.png"), clean_image(40) + noise(40))
    before, after = (
        psnr_of(model, "other/new.png", clean_image(40))
        for model in ("start.safetensors", "net.safetensors")
    )
    assert after > before + 0.05
    assert main(["denoise", "other/new.png", "-o", "out.png", "--model", "net.safetensors"]) == 0
    assert sorted(p.name for p in work.iterdir() if "net" in p.name) == ["net.safetensors"]


def test_pairs_and_takes(work):
    for i in range(FILES):
        store(Path(f"scenes/{i:02}_a.png"), clean_image(i) + noise(i))
        store(Path(f"scenes/{i:02}_b.png"), clean_image(i) + noise(100 + i))
        store(Path(f"scenes/{i:02}_c.png"), clean_image(i))
    how = {"start": "start.safetensors", "minutes": SHORT, "threads": 1}
    by_pairs = adapt("scenes", "p.safetensors", pairs=["*_a.png", "*_c.png"], **how)
    by_takes = adapt("scenes", "t.safetensors", takes=["*_a.png", "*_b.png"], **how)
    assert (by_pairs.objective, by_takes.objective) == ("supervised", "noise2noise")
    for found in (by_pairs, by_takes):
        assert found.kept and found.path.exists()
        assert found.gain > 0 and found.least_gain == pytest.approx(found.gain)


@pytest.mark.rotates(turn=0, turns=2)
def test_no_gain_leaves_no_file(work, capsys):
    """Clean images: there is nothing to learn."""
    for i in range(FILES):
        store(Path(f"clean/{i:02}.png"), clean_image(i))
    assert run("clean", "-o", "net.safetensors", "--start", "ffdnet_gray_small") == 4
    out = capsys.readouterr().out
    assert "ffdnet_gray_small is kept" in out and "dB" in out
    assert not list(work.glob("net.*"))


def test_default_start(work):
    """The shipped network that the files are denoised with, in colour, by 16 bits."""
    for i in range(8):
        noisy = clean_image(i)[..., None] + noise(i, 3)
        store(Path(f"colour/{i:02}.png"), noisy, np.uint16)
    own = OwnImages([(path.resolve(),) for path in sorted(Path("colour").iterdir())], 3)
    assert {image.dtype for image in own.images} == {np.dtype(np.uint16)}
    first = read_image("colour/00.png")
    torch.testing.assert_close(
        own.images[0].astype(np.int64), first.astype(np.int64), rtol=0, atol=0
    )


def test_files_that_do_not_fit_are_named(work, capsys):
    store(Path("own/colour.png"), clean_image(0)[..., None] + noise(0, 3))
    store(Path("own/tiny.png"), clean_image(0)[:40])
    Path("own/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    store(Path("own/sixteen.png"), clean_image(3) + noise(3), np.uint16)
    store(Path("own/wide.png"), np.tile(clean_image(5), 2) + np.tile(noise(5), 2))
    hit = clean_image(6)
    hit[np.random.default_rng(0).random(hit.shape) < 0.05] = 1.0
    store(Path("own/hit.png"), hit)
    found = adapt("own", "net.safetensors", start="start.safetensors", minutes=SHORT, threads=1)
    reasons = {path.name: reason for path, reason in found.left_out}
    assert reasons.keys() == {"colour.png", "tiny.png", "broken.png", "hit.png"}
    assert "RGB" in reasons["colour.png"] and "40" in reasons["tiny.png"]
    assert "impulses" in reasons["hit.png"]
    assert found.files == FILES + 2
    assert run("own", "-o", "more.safetensors", "--start", "start.safetensors") in (0, 4)
    err = capsys.readouterr().err
    assert all(name in err for name in reasons)


def test_pairs_that_do_not_fit(work, capsys):
    for i in range(FILES):
        store(Path(f"scenes/{i:02}_a.png"), clean_image(i) + noise(i))
        store(Path(f"scenes/{i:02}_c.png"), clean_image(i)[: SIDE - (i == 3)])
    shutil.copy("scenes/04_c.png", "scenes/04_a.png")
    how = {"start": "start.safetensors", "minutes": SHORT, "threads": 1}
    found = adapt("scenes", "net.safetensors", pairs=["*_a.png", "*_c.png"], **how)
    reasons = {path.name: reason for path, reason in found.left_out}
    assert reasons.keys() == {"03_a.png", "04_a.png"}
    assert "127" in reasons["03_a.png"] and "same" in reasons["04_a.png"]
    Path("scenes/07_c.png").unlink()
    assert run("scenes", "--pairs", "*_a.png", "*_c.png", "-o", "x.safetensors") == 2
    assert "07_c.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["empty", "-o", "net.safetensors"], ["empty", "no image"]),
        (["missing", "-o", "net.safetensors"], ["missing"]),
        (["own/00.png", "-o", "net.safetensors"], ["images", "held out"]),
        (["bad", "-o", "net.safetensors"], ["none of 1", "x.png"]),
        (["own", "-o", "net.pth"], ["output", ".safetensors", "net.pth"]),
        (["own", "-o", "no/net.safetensors"], ["no", "does not exist"]),
        (["own", "-o", "start.safetensors"], ["start.safetensors", "--overwrite"]),
        (["own", "-o", "net.safetensors", "--start", "nothing"], ["start", "nothing"]),
        (["own", "-o", "net.safetensors", "--start", "dxnet_s_color"], ["start", "channels"]),
        (["own", "-o", "net.safetensors", "--minutes", "0"], ["--minutes", "0"]),
        (["own", "-o", "net.safetensors", "--minutes", "nan"], ["--minutes", "nan"]),
        (["own", "own", "--pairs", "*a", "*b", "-o", "n.safetensors"], ["images", "one folder"]),
        (["own", "--pairs", "*a", "*b", "--takes", "*a", "*b", "-o", "n.safetensors"],
         ["--takes", "--pairs"]),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(work, capsys, arguments, words):
    Path("empty").mkdir()
    Path("bad").mkdir()
    Path("bad/x.png").write_bytes(b"no image")
    before = sorted(work.rglob("*.*"))
    assert main(["adapt", *arguments]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in last for word in words), last
    left = [path for path in work.rglob("*.*") if path not in before and "cache" not in path.parts]
    assert left == []


def test_one_image_that_is_large_enough(work):
    """The end of its longer side is held out."""
    tall = np.concatenate([clean_image(i) + noise(i) for i in range(8)])
    wide = np.concatenate([tall] * 2, axis=1)
    store(Path("one/a.png"), wide)
    own = OwnImages([(Path("one/a.png"),)], 1)
    height, width = wide.shape
    [training] = own.images
    tiles = sum(tile.image[0, 0].numel() for tile in own.held_out)
    assert training.shape[:2] == (height - height // 4 - 16, width)
    assert tiles <= height // 4 * width
    found = adapt("one", "n.safetensors", start="start.safetensors", minutes=SHORT, threads=1)
    assert found.files == 1


def test_whole_files_are_held_out(work):
    own = OwnImages([(path,) for path in sorted(Path("own").iterdir())], 1)
    held_out = {tile.index for tile in own.held_out}
    assert held_out == {4, 5, 6} and not held_out & set(own.index)  # of 12, in the middle


def test_an_existing_output_is_replaced_only_when_asked(work):
    shutil.copy("start.safetensors", "net.safetensors")
    before = Path("net.safetensors").read_bytes()
    how = {"start": "start.safetensors", "minutes": SHORT, "threads": 1}
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        adapt("own", "net.safetensors", **how)
    assert Path("net.safetensors").read_bytes() == before
    assert adapt("own", "net.safetensors", overwrite=True, **how).kept
    assert Path("net.safetensors").read_bytes() != before


class _Stopped(KeyboardInterrupt):
    pass


def test_an_interrupted_run_continues(work, monkeypatch, capsys):
    """To the same weights; another request with that output is refused."""
    arguments = ("own", "-o", "net.safetensors", "--start", "start.safetensors")
    assert run(*arguments) == 0
    whole = load_checkpoint("net.safetensors").state_dict()
    Path("net.safetensors").unlink()

    from denoise_ext.training import loop

    step = loop._Trainer._train_step
    with monkeypatch.context() as patch:

        def stopping(self, ahead):
            if self.step == 25 and self.config.run.steps > 12:
                self._save()
                raise _Stopped
            return step(self, ahead)

        patch.setattr(loop._Trainer, "_train_step", stopping)
        assert run(*arguments) == 130
    assert "continues" in capsys.readouterr().err
    folder = Path("net.safetensors.run")
    assert json.loads((folder / PLAN).read_text())["steps"] == 40
    assert run(*arguments, "--seed", "5") == 2
    assert "net.safetensors.run" in capsys.readouterr().err
    assert run(*arguments) == 0 and not folder.exists()
    again = load_checkpoint("net.safetensors").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_folder_of_other_files_is_left_alone(work, capsys):
    folder = Path("net.safetensors.run")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    assert run("own", "-o", "net.safetensors", "--start", "start.safetensors") == 2
    assert "net.safetensors.run" in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_process_that_was_killed_while_steps_were_timed(work):
    folder = Path("net.safetensors.run")
    (folder / "trial").mkdir(parents=True)
    (folder / ".lock").write_text("1\n")
    (folder / FILES_NAME).write_text("[]")
    (folder / "trial/log.csv").write_text("step\n")
    found = adapt("own", "net.safetensors", start="start.safetensors", minutes=SHORT, threads=1)
    assert found.kept and not folder.exists()


def test_a_loss_that_is_not_finite(work, monkeypatch, capsys):
    """Nothing is written, and nothing is left behind."""
    from denoise_ext.training import objectives

    call = objectives.Sure.__call__

    def broken(self, network, sample, step):
        loss, parts = call(self, network, sample, step)
        return loss * (float("nan") if step > 20 else 1.0), parts

    monkeypatch.setattr(objectives.Sure, "__call__", broken)
    assert run("own", "-o", "net.safetensors", "--start", "start.safetensors") == 1
    assert "loss" in capsys.readouterr().err
    assert not list(work.glob("net.*"))
