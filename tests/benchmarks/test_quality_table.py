"""benchmarks/quality.py: tiny images and networks, and every network that ships."""

from __future__ import annotations

import builtins
import itertools
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import HAVE_NATIVE
from command_line import run as denoise_ext

from denoise_ext import _timing, io
from denoise_ext.data import add_gaussian_noise
from denoise_ext.models import create_model, pretrained_info, save_model
from denoise_ext.runtime.model_names import image_models

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from quality import filters, measure, table, test_sets  # noqa: E402
from quality.run import known_figures, main  # noqa: E402

needs_native = pytest.mark.skipif(not HAVE_NATIVE, reason="the table measures the native library")
RNG = np.random.default_rng(0)
SIGMAS = [15.0, 25.0, 50.0]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the script, in this process."""
    try:
        code = main(list(arguments))
    except SystemExit as end:  # argparse
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def picture(channels: int, height: int = 24, width: int = 20) -> np.ndarray:
    """Smooth, with an edge: filters have something to keep and something to remove."""
    ramp = np.linspace(40, 120, width)[None, :, None] + 100 * (np.arange(height) > 9)[:, None, None]
    shape = (height, width, channels)
    pixels = np.clip(ramp + RNG.integers(-3, 4, shape), 0, 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def make_data(folder: Path) -> None:
    """folder/test/{Set12,CBSD68}, train/CBSD432.txt, published_weights/."""
    for name, channels in (("Set12", 1), ("CBSD68", 3)):
        (folder / "test" / name).mkdir(parents=True)
        for i in range(2):
            io.write_image(folder / "test" / name / f"{i}.png", picture(channels))
    (folder / "train").mkdir()
    for i in range(3):
        io.write_image(folder / "train" / f"{i}.png", picture(3))
    (folder / "train" / "CBSD432.txt").write_text("0.png\n1.png\n2.png\n")
    (folder / "published_weights").mkdir()
    torch.manual_seed(0)
    for name, model in {
        "tiny_25": create_model("dncnn_gray", depth=2, width=4),
        "blind": create_model("dncnn_gray_blind", depth=2, width=4),
        "color": create_model("ffdnet_color", predicts="noise", depth=2, width=4),
    }.items():
        save_model(model.eval(), folder / "published_weights" / f"{name}.safetensors")
    (folder / "published_weights" / "broken.pth").write_bytes(b"nothing")
    state = create_model("dncnn_gray", depth=2, width=4).state_dict()
    kair = {
        key.replace("body.1", "model.2").replace("body.0", "model.0"): state[key] for key in state
    }
    kair["model.0.bias"].fill_(float("nan"))
    torch.save(kair, folder / "published_weights" / "nan.pth")
    (folder / "published_weights" / "notes.txt").write_text("not looked at")


@pytest.fixture(scope="module")
def quick():
    """Few parameters to choose from, a small image and short turns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_timing, "SHORTEST_TURN", 1e-4)
        patch.setattr(_timing, "PAUSE", 0.0)
        patch.setattr(measure, "SIDE", 32)
        patch.setattr(measure, "SECONDS", 0.0)
        for one, grid in (
            (filters.GAUSSIAN, {"pixels": (0.4, 0.8, 2.0)}),
            (filters.BILATERAL, {"pixels": (1.0, 2.0), "times sigma": (2.0, 4.0)}),
        ):
            patch.setitem(vars(one), "grid", grid)
        yield


def documented() -> list[list[str]]:
    """The arguments of the commands in benchmarks/README.md."""
    lines = (BENCHMARKS / "README.md").read_text().splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "quality.py data" in line]
    return [words[2:] for words in found]


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick):
    """(data folder, the three results' name), by the command of the documentation."""
    folder = tmp_path_factory.mktemp("quality")
    make_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(documented()[0]) == 0
    return folder / "data", str(folder / "quality")


@pytest.fixture
def document(made):
    return json.loads(Path(made[1] + ".json").read_text(), parse_constant=pytest.fail)


def row(document: dict, name: str, channels: int) -> dict:
    [found] = [r for r in document["methods"] if (r["name"], r["channels"]) == (name, channels)]
    return found


def test_sets_of_mixed_images_are_converted(tmp_path):
    folder = tmp_path / "test" / "Set14"
    folder.mkdir(parents=True)
    for name, channels in (("1", 3), ("2", 1)):
        io.write_image(folder / f"{name}.png", picture(channels))
    gray, colour = test_sets.find_test_sets(tmp_path)
    assert (gray.name, colour.name) == ("Set14 gray", "Set14")
    assert [x.shape for x in gray.images] == [(24, 20)] * 2
    assert [x.shape for x in colour.images] == [(24, 20, 3)] * 2
    assert (colour.images[1] == gray.images[1][..., None]).all()


@needs_native
def test_everything_is_in_the_table(made, document):
    names = [row["name"] for row in document["methods"]]
    assert {*image_models()} <= {*names} and "rdxnet_s_gray" not in names
    assert {"tiny_25.safetensors", "blind.safetensors", "color.safetensors"} <= {*names}
    for name in ("noisy image", "Gaussian", "bilateral", "non-local means"):
        assert names.count(name) == 2  # gray and colour
    assert [s["name"] for s in document["skipped"]] == ["broken.pth", "nan.pth"]
    assert "not finite" in document["skipped"][1]["reason"]
    assert document["sets"]["Set12"]["images"] == 2 and "BSD68" not in document["sets"]
    text = Path(made[1] + ".md").read_text()
    assert all(name in text for name in names)
    for fact in (
        "seed 0", "not clipped", "not rounded", "mean of the images", "median", "threads",
        "NOT measured here", "broken.pth", "starfish", "15 / 25 / 50", "times sigma",
    ):  # fmt: skip
        assert fact in text
    assert Path(made[1] + ".png").read_bytes().startswith(b"\x89PNG")
    for found in document["methods"]:
        time = found["seconds_per_megapixel"]
        assert (time is None) == (found["kind"] == "nothing")
        assert time is None or 0 < time["low"] <= time["median"] <= time["high"]
    shipped = row(document, "dxnet_s_gray", 1)
    assert shipped["identity"] == pretrained_info("dxnet_s_gray").sha256
    assert shipped["bytes"] == pretrained_info("dxnet_s_gray").path.stat().st_size
    assert shipped["parameters"] == sum(
        p.numel() for p in create_model("dxnet_s_gray").parameters()
    )


@needs_native
def test_figures_are_those_of_evaluate(made, document, capsys, tmp_path):
    folder, _ = made
    for name, channels, images in (("color", 3, "CBSD68"), ("blind", 1, "Set12")):
        command = [
            "evaluate", str(folder / "test" / images), "--sigma", "15", "25", "50", "--no-round",
            "--device", "cpu",
            "--json", str(tmp_path / f"{name}.json"),
            "--model", str(folder / "published_weights" / f"{name}.safetensors"),
        ]  # fmt: skip
        assert denoise_ext(capsys, *command)[0] == 0
        averages = json.loads((tmp_path / f"{name}.json").read_text())["averages"]
        found = row(document, f"{name}.safetensors", channels)["figures"][images]
        noisy = row(document, "noisy image", channels)["figures"][images]
        for expected, ours, before in zip(averages, found, noisy, strict=True):
            assert expected["sigma"] == ours["sigma"] == before["sigma"]
            for key in ("psnr", "ssim"):  # one route: the same bits, but for the sum's order
                assert ours[key] == pytest.approx(expected[key], rel=1e-12)
        # what is measured as "noisy image" has the noise's PSNR, clipped as an output
        assert noisy[1]["psnr"] == pytest.approx(20 * np.log10(255 / 25), abs=1.0)


@needs_native
def test_a_blind_network_for_one_level_is_measured_there(document):
    [only] = row(document, "tiny_25.safetensors", 1)["figures"]["Set12"]
    assert only["sigma"] == 25
    assert table.figure(row(document, "tiny_25.safetensors", 1), "Set12", 15.0, "psnr") is None


@needs_native
def test_parameters_are_the_best_on_training_images(made, document):
    """Against the mean over all combinations, computed here."""
    from skimage.metrics import peak_signal_noise_ratio

    chosen = {(f["name"], f["channels"]): f["by_sigma"] for f in document["filters"]}
    crops = [io.read_image(made[0] / "train" / f"{i}.png") for i in range(3)]
    for one, sigma in itertools.product((filters.GAUSSIAN, filters.BILATERAL), SIGMAS):
        scores = {}
        for values in itertools.product(*one.grid.values()):
            parameters = dict(zip(one.grid, values, strict=True))
            total = 0.0
            for crop in crops:
                clean = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
                noisy = add_gaussian_noise(clean, sigma, torch.Generator().manual_seed(0))
                output = one.apply(noisy, sigma, parameters).clamp(0, 1)
                total += peak_signal_noise_ratio(clean.numpy(), output.numpy(), data_range=1)
            scores[values] = total
        best = max(scores, key=scores.get)
        assert tuple(chosen[one.name, 3][f"{sigma:g}"].values()) == best
    # more noise, more smoothing: the choice is one
    assert chosen["Gaussian", 1]["15"] != chosen["Gaussian", 1]["50"]


@needs_native
def test_resume_measures_only_what_changed(made, capsys, tmp_path, monkeypatch):
    folder, out = made
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(folder)
    code, _, err = run(capsys, str(folder), "--out", out)
    assert code == 2 and "exists" in err and err.count("\n") == 1
    document = json.loads(Path(out + ".json").read_text())
    for found in document["methods"]:  # figures that nobody measured
        for figures in found["figures"].values():
            figures[0]["psnr"] = 1.0
    document["protocol"]["in_words"] = ["worded differently"]
    row(document, "blind.safetensors", 1)["identity"] = "other weights"
    document["sets"]["CBSD68"]["sha256"] = "other images"
    Path("quality.json").write_text(json.dumps(document))
    assert run(capsys, *documented()[1])[0] == 0
    found = json.loads(Path("quality.json").read_text())
    kept = {
        (one["name"], name)
        for one in found["methods"]
        for name, figures in one["figures"].items() if figures[0]["psnr"] == 1.0
    }  # fmt: skip
    gray = {one["name"] for one in found["methods"] if one["channels"] == 1}
    assert kept == {(name, "Set12") for name in gray - {"blind.safetensors"}}


@needs_native
def test_what_is_absent_is_said(made, capsys, tmp_path, monkeypatch):
    """No checkpoints, no training images, no scikit-image, no matplotlib: all no errors."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "Set12").symlink_to(made[0] / "test" / "Set12")
    real = builtins.__import__

    def without(name, *args, **options):
        if name.split(".")[0] in ("skimage", "matplotlib"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setenv("DENOISE_EXT_DATA", str(tmp_path))
    out = str(tmp_path / "q")
    code, printed, err = run(capsys, "--sigma", "25", "--out", out)
    assert (code, err) == (0, "")
    document = json.loads(Path(out + ".json").read_text())
    reasons = {one["name"]: one["reason"] for one in document["skipped"]}
    assert str(tmp_path / "published_weights") in reasons["published checkpoints"]
    assert "pip install scikit-image" in reasons["non-local means"]
    assert "CBSD432.txt" in reasons["Gaussian"] and "CBSD432.txt" in reasons["bilateral"]
    assert {one["channels"] for one in document["methods"]} == {1}
    assert "no picture: matplotlib" in printed and not Path(out + ".png").exists()
    assert "q.png" not in Path(out + ".md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("in", "--out"),
        ("nowhere --out q", "nowhere"),
        (". --out q", "none of the folders test/Set12"),
        ("a b --out q", "b"),
        ("--out q", "DENOISE_EXT_DATA"),
        (". --out q --resume --overwrite", "--overwrite"),
        (". --out no/folder/q", "no/folder"),
        (". --out q --sigma 0", "must be > 0"),
        (". --out q --sigma -1", "--sigma"),
        (". --out q --seed -1", "--seed"),
    ],
)
@needs_native
def test_bad_input(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    code, _, err = run(capsys, *arguments.split())
    assert code == 2 and said in err.splitlines()[-1] and "Traceback" not in err


@needs_native
def test_wrong_files(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("q.json").write_text("[]")
    code, _, err = run(capsys, str(made[0]), "--out", "q", "--resume")
    assert code == 2 and "q.json: not written by quality.py" in err
    (tmp_path / "test" / "Set12").mkdir(parents=True)
    io.write_image(tmp_path / "test" / "Set12" / "a.png", picture(3))
    code, _, err = run(capsys, ".", "--out", "new")
    assert code == 2 and "a.png" in err and "gray" in err
    io.write_image(tmp_path / "test" / "Set12" / "a.png", picture(1, 8, 40), overwrite=True)
    code, _, err = run(capsys, ".", "--out", "new")
    assert code == 2 and "a.png" in err and "11 x 11" in err


def test_the_script_has_an_example():
    command = [sys.executable, str(BENCHMARKS / "quality.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "python benchmarks/quality.py data --out" in done.stdout


def test_published_results_can_be_resumed():
    """The document in results/ has what --resume and the report read."""
    document = json.loads((BENCHMARKS / "results" / "quality.json").read_text())
    text = table.markdown(document, "quality.png")
    assert all(one["name"] in text for one in document["methods"])
    row = {**document["methods"][0], "figures": {}}
    assert known_figures(document, document, row, "Set12") is not None


def test_pareto_front():
    generator = random.Random(0)
    for _ in range(50):
        points = {str(i): (generator.randint(1, 6), generator.randint(1, 6)) for i in range(8)}
        found = table.pareto_front(points)
        for name, (seconds, decibels) in points.items():
            beaten = any(
                (s <= seconds and d > decibels) or (s < seconds and d >= decibels)
                for s, d in points.values()
            )
            equal = any(points[other] == points[name] for other in found)
            assert equal == (not beaten)
        assert [points[name] for name in found] == sorted(points[name] for name in found)


def test_published_figures_have_a_source_and_fall_with_the_noise():
    facts = table.published()
    assert facts["sigmas"] == sorted(facts["sigmas"])
    assert {*facts["sets"]} == {*table.MAIN_SETS[1], *table.MAIN_SETS[3]}
    used = set()
    for entries in facts["sets"].values():
        for entry in entries.values():
            assert len(entry["psnr"]) == len(facts["sigmas"])
            assert 37 > entry["psnr"][0] > entry["psnr"][1] > entry["psnr"][2] > 25
            used.add(entry["source"])
    assert used == {*facts["sources"]}
    assert all("github.com/" in text for text in facts["sources"].values())
