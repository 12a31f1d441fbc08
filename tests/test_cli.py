"""The command line: what it writes, what it says, how it fails."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.cli import COMMANDS, main
from denoise_ext.models import create_model, list_models, save_model
from denoise_ext.ops._library import kernel_devices

HAVE_NATIVE = native_error() is None
BACKEND = ["--backend", "native" if HAVE_NATIVE else "torch"]
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (20, 31), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny networks as files: "gray", "colour" (both need sigma), "blind" (gray)."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    options = {"width": 4, "depth": 2}
    models = {
        "gray": create_model("ffdnet_gray", predicts="noise", **options),
        "colour": create_model("ffdnet_color", predicts="noise", **options),
        "blind": create_model("dncnn_gray_blind", **options),
    }
    paths = {}
    for name, model in models.items():
        paths[name] = str(folder / f"{name}.safetensors")
        save_model(model.eval(), paths[name])
    return paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with in/a.png (RGB), in/b.png (gray), in/sub/c.png (RGB)."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    io.write_image(tmp_path / "in" / "a.png", RGB)
    io.write_image(tmp_path / "in" / "b.png", GRAY)
    io.write_image(tmp_path / "in" / "sub" / "c.png", RGB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DEBUG", raising=False)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return code, captured.out, captured.err


def denoise(capsys, *arguments: str) -> tuple[int, str, str]:
    return run(capsys, "denoise", *arguments, *BACKEND)


def test_help_is_quick_and_every_help_ends_with_an_example(capsys):
    script = (
        "import sys\nfrom denoise_ext.cli import main\nassert main(['--help']) == 0\n"
        "assert main(['denoise', '--help']) == 0\n"
        "slow = {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)\nassert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    for command in COMMANDS:
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        last = out.strip().splitlines()[-1].strip()
        assert last.startswith(f"denoise-ext {command}")
    code, out, _ = run(capsys, "--version")
    assert code == 0 and out.startswith("denoise-ext ")


def test_file_to_file(folder, checkpoints, capsys):
    code, out, err = denoise(
        capsys, "in/a.png", "-o", "out.png", "--sigma", "20", "--model", checkpoints["colour"]
    )
    assert (code, err) == (0, "")
    assert "1 image denoised" in out and "out.png" in out
    result = io.read_image("out.png")
    assert result.shape == RGB.shape and (result != RGB).any()


def test_the_result_is_what_the_library_gives(folder, checkpoints, capsys):
    from denoise_ext import inference

    denoise(capsys, "in/a.png", "-o", "o.png", "--sigma", "20", "--model", checkpoints["colour"])
    expected = inference.denoise(RGB, checkpoints["colour"], 20.0, backend=BACKEND[1])
    np.testing.assert_array_equal(io.read_image("o.png"), expected)


def test_folder_keeps_names_and_sub_folders(folder, checkpoints, capsys):
    options = ["--sigma", "20", "--model", checkpoints["gray"]]
    assert denoise(capsys, "in", "-o", "out", *options)[0] == 0
    assert files(folder / "out") == ["a.png", "b.png"]
    assert denoise(capsys, "in", "-o", "deep/er/", "--recursive", *options)[0] == 0
    assert files(folder / "deep") == ["er/a.png", "er/b.png", "er/sub/c.png"]
    code, out, _ = denoise(capsys, "in/*.png", "in/sub", "-o", "globbed", "-q", *options)
    assert (code, out) == (0, "")
    assert files(folder / "globbed") == ["a.png", "b.png", "c.png"]


def test_never_overwrites_unless_asked(folder, checkpoints, capsys):
    command = ["in/a.png", "-o", "out.png", "--sigma", "20", "--model", checkpoints["colour"]]
    (folder / "out.png").write_bytes(b"precious")
    code, _, err = denoise(capsys, *command)
    assert code == 3 and "exists" in err and "out.png" in err
    assert (folder / "out.png").read_bytes() == b"precious"
    assert denoise(capsys, *command, "--overwrite")[0] == 0
    assert io.read_image("out.png").shape == RGB.shape


def test_keeps_going_and_lists_what_failed(folder, checkpoints, capsys):
    whole = (folder / "in" / "a.png").read_bytes()
    (folder / "in" / "cut.png").write_bytes(whole[:200])
    (folder / "in" / "empty.png").write_bytes(b"")
    code, out, err = denoise(
        capsys, "in", "gone.png", "-o", "out", "--sigma", "20", "--model", checkpoints["gray"]
    )
    assert code == 3
    assert "2 images denoised" in out
    assert "3 of 5 files failed" in err
    listed = err.strip().splitlines()[1:]
    assert len(listed) == 3
    for name in ("in/cut.png", "in/empty.png", "gone.png"):
        assert any(name in line for line in listed)
    assert files(folder / "out") == ["a.png", "b.png"]


def test_two_inputs_for_one_output(folder, checkpoints, capsys):
    (folder / "more").mkdir()
    io.write_image(folder / "more" / "a.png", RGB)
    code, _, err = denoise(
        capsys, "in/a.png", "more/a.png", "in/../in/a.png", "-o", "out",
        "--sigma", "20", "--model", checkpoints["gray"],
    )  # fmt: skip
    assert code == 3
    assert "more/a.png" in err and "already the output of" in err
    assert files(folder / "out") == ["a.png"]


def test_profile_and_orientation_are_kept(folder, checkpoints, capsys):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save("photo.png", icc_profile=profile, exif=exif)
    denoise(capsys, "photo.png", "-o", "o.png", "--sigma", "0", "--model", checkpoints["colour"])
    result = io.read_image_file("o.png")
    assert result.icc_profile == profile
    assert result.pixels.shape == (31, 20, 3)


def test_blind_model_needs_no_sigma(folder, checkpoints, capsys):
    code, _, err = denoise(capsys, "in", "-o", "out", "--model", checkpoints["blind"])
    assert (code, err) == (0, "")


def bomb() -> bytes:
    """A PNG of a few bytes that states 60000 x 60000 RGB pixels (10.8 GB)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


# arguments after `denoise`, exit code, what the message must contain
BAD = {
    "truncated": (["bad/cut.png", "-o", "o.png"], 3, "bad/cut.png"),
    "empty": (["bad/empty.png", "-o", "o.png"], 3, "0 bytes"),
    "text": (["bad/text.png", "-o", "o.png"], 3, "not an image"),
    "bomb": (["bad/bomb.png", "-o", "o.png"], 3, "3600000000 pixels"),
    "missing": (["nothing.png", "-o", "o.png"], 2, "'nothing.png' does not exist"),
    "no images": (["none", "-o", "out"], 2, "holds no image"),
    "no match": (["in/*.tif", "-o", "out"], 2, "matches nothing"),
    "folder into file": (["in", "-o", "o.png"], 2, "name a folder"),
    "two into file": (["in/a.png", "in/b.png", "-o", "o.png"], 2, "name a folder"),
    "unknown suffix": (["in/a.png", "-o", "o.gif"], 2, "suffix '.gif'"),
    "file as folder": (["in", "-o", "file"], 2, "neither a folder nor an image"),
    "under a file": (["in/a.png", "-o", "file/o.png"], 3, "file/o.png"),
    "folder under a file": (["in", "-o", "file/out/"], 3, "cannot make folder"),
    "folder missing": (["in/a.png", "-o", "gone/o.png"], 3, "does not exist"),
    "unknown model": (["in", "-o", "out", "--model", "ffdnet_grey"], 2, "'ffdnet_grey'"),
    "not a checkpoint": (["in", "-o", "out", "--model", "bad/text.png"], 2, "text.png"),
    "bad device": (["in", "-o", "out", "--device", "tpu"], 2, "tpu"),
    "negative sigma": (["in", "-o", "out", "--sigma", "-1"], 2, ">= 0"),
    "NaN sigma": (["in", "-o", "out", "--sigma", "nan"], 2, "finite"),
    "word sigma": (["in", "-o", "out", "--sigma", "much"], 2, "not a number"),
    "no output": (["in"], 2, "-o"),
    "no input": (["-o", "out"], 2, "INPUT"),
    "unknown option": (["in", "-o", "out", "--fast"], 2, "--fast"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained_and_leaves_nothing(folder, checkpoints, capsys, case):
    arguments, expected, message = BAD[case]
    (folder / "bad").mkdir()
    (folder / "none").mkdir()
    (folder / "file").write_bytes(b"")
    whole = (folder / "in" / "a.png").read_bytes()
    (folder / "bad" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad" / "empty.png").write_bytes(b"")
    (folder / "bad" / "text.png").write_text("hello")
    (folder / "bad" / "bomb.png").write_bytes(bomb())
    before = files(folder)
    extra = [] if "--sigma" in arguments else ["--sigma", "20"]
    extra += [] if "--model" in arguments else ["--model", checkpoints["gray"]]
    code, out, err = denoise(capsys, *arguments, *extra)
    assert code == expected
    assert message in err
    assert "error: " in err
    assert files(folder) == before
    assert out == ""


def test_missing_sigma_is_one_error(folder, checkpoints, capsys):
    code, _, err = denoise(capsys, "in", "-o", "out", "--model", checkpoints["gray"])
    assert code == 2
    assert err.startswith("denoise-ext: error: --sigma is required") and err.count("\n") == 1
    assert not (folder / "out").exists()


def test_debug_shows_the_traceback(folder, monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_DEBUG", "1")
    with pytest.raises(ValueError, match="no_model"):
        main(["denoise", "in", "-o", "out", "--model", "no_model", "--sigma", "5"])


def test_interrupted(folder, monkeypatch, capsys):
    from denoise_ext.cli import denoise as command

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_find", interrupt)
    code, _, err = run(capsys, "denoise", "in", "-o", "out")
    assert code == 130 and err == "denoise-ext: interrupted\n"


def test_unknown_command(capsys):
    code, _, err = run(capsys, "sharpen", "x.png")
    assert code == 2 and "sharpen" in err
    assert run(capsys)[0] == 2


def test_evaluate_prints_protocol_and_writes_json(folder, checkpoints, capsys):
    arguments = ["in", "--sigma", "15", "50", "--model", checkpoints["gray"], "--seed", "3"]
    arguments += ["--crop", "2", "--json", "figures.json", "--per-image", *BACKEND]
    code, out, err = run(capsys, "evaluate", *arguments)
    assert (code, err) == (0, "")
    for fact in ("seed 3", "not clipped", "rounded", "border left out: 2", "average of 2", "a.png"):
        assert fact in out
    document = json.loads((folder / "figures.json").read_text())
    assert document["protocol"]["seed"] == 3 and document["protocol"]["crop"] == 2
    assert [(i["file"], i["sigma"]) for i in document["images"]] == [
        ("in/a.png", 15), ("in/a.png", 50), ("in/b.png", 15), ("in/b.png", 50)
    ]  # fmt: skip
    for average in document["averages"]:
        per_image = [i for i in document["images"] if i["sigma"] == average["sigma"]]
        for key in ("psnr", "noisy_psnr", "ssim", "noisy_ssim"):
            assert average[key] == pytest.approx(sum(i[key] for i in per_image) / 2)
        # 20 log10(255 / sigma) for the noise alone
        theory = 20 * np.log10(255 / average["sigma"])
        assert average["noisy_psnr"] == pytest.approx(theory, abs=0.6)
    code, _, err = run(capsys, "evaluate", *arguments)
    assert code == 2 and "figures.json" in err and "exists" in err


def test_evaluate_lists_failures(folder, checkpoints, capsys):
    (folder / "in" / "small.png").write_bytes(b"")
    io.write_image(folder / "in" / "tiny.png", GRAY[:5, :5])
    code, out, err = run(
        capsys, "evaluate", "in", "--sigma", "25", "--model", checkpoints["gray"], *BACKEND
    )
    assert code == 3
    assert "average of 2" in out
    assert "2 of 4 files failed" in err and "small.png" in err and "tiny.png" in err


def test_evaluate_of_equal_images_is_valid_json(folder, checkpoints, capsys):
    arguments = ["in/b.png", "--sigma", "0", "--model", checkpoints["gray"], "--json", "f.json"]
    assert run(capsys, "evaluate", *arguments, *BACKEND)[0] == 0
    document = json.loads((folder / "f.json").read_text(), parse_constant=pytest.fail)
    assert document["images"][0]["noisy_psnr"] is None


def test_models_lists_every_model(capsys):
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert all(name in out for name in list_models())
    code, out, _ = run(capsys, "models", "ffdnet*", "--json")
    facts = json.loads(out)
    assert [m["name"] for m in facts] == list_models("ffdnet*")
    assert all(m["parameters"] > 0 and m["needs_sigma"] for m in facts)
    code, _, err = run(capsys, "models", "nothing*")
    assert code == 2 and "nothing*" in err


def test_models_shows_what_is_known_of_weights(monkeypatch, capsys):
    from denoise_ext.models import Pretrained, _registry

    weights = Pretrained(
        file="made_up.safetensors", sha256="0" * 64, config={}, recipe="recipe.toml",
        training_data="made-up set", noise="Gaussian, sigma 0 to 55", steps=7,
        licence="Apache-2.0", psnr={"BSD68 sigma 25": 29.123}, protocol="seed 0, not clipped",
    )  # fmt: skip
    monkeypatch.setitem(_registry._pretrained, "ffdnet_gray", weights)
    code, out, _ = run(capsys, "models", "ffdnet_gray", "--trained")
    assert code == 0
    for fact in ("sigma 0 to 55", "BSD68 sigma 25: 29.12", "Apache-2.0", "seed 0, not clipped"):
        assert fact in out
    code, out, _ = run(capsys, "models", "ffdnet_gray", "--json")
    (facts,) = json.loads(out)
    assert facts["trained"] and facts["steps"] == 7 and facts["bytes"] is None


@pytest.mark.skipif(
    len(list_models("ffdnet_*_small", pretrained=True)) < 2, reason="no weights are shipped yet"
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_shipped_models_clean_a_piece_of_the_photograph(folder, capsys, mode):
    from denoise_ext import metrics
    from denoise_ext.cli import demo

    piece = (slice(64, 256), slice(256, 448))
    images = (demo.read_photograph(), demo.add_noise(demo.read_photograph()))
    clean, noisy = (np.array(Image.fromarray(x[piece]).convert(mode)) for x in images)
    io.write_image("noisy.png", noisy)
    # a gray value is 0.299 R + 0.587 G + 0.114 B, so its noise is 25 times the root of the squares
    sigma = 25 if mode == "RGB" else 25 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    assert denoise(capsys, "noisy.png", "-o", "clean.png", "--sigma", f"{sigma}")[0] == 0

    def psnr(image):
        return float(
            metrics.psnr(torch.from_numpy(image)[None], torch.from_numpy(clean)[None], 255)
        )

    assert psnr(io.read_image("clean.png")) > psnr(noisy) + 7


def test_file_names_are_not_markup(folder, checkpoints, capsys):
    io.write_image("[bold]x.png", GRAY)
    code, out, _ = run(
        capsys, "evaluate", "[bold]x.png", "--sigma", "5", "--model", checkpoints["gray"], *BACKEND
    )
    assert code == 0 and "[bold]x.png" in out


needs_filter = pytest.mark.skipif(
    HAVE_NATIVE and "cpu" not in kernel_devices("bilateral_blur"),
    reason="the native library has no bilateral_blur",
)


@needs_filter
def test_demo(folder, checkpoints, capsys):
    arguments = ["demo", "--model", checkpoints["colour"], "--repeats", "1", "-o", "d", *BACKEND]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    for fact in ("kodim21.png", "sigma 25", "bilateral filter", "before_after.png", "PSNR"):
        assert fact in out
    if HAVE_NATIVE:
        assert "plain PyTorch takes" in out and "interleaved" in out
    assert files(folder / "d") == [
        "before_after.png", "bilateral.png", "denoised.png", "noisy.png"
    ]  # fmt: skip
    assert io.read_image("d/noisy.png").shape == (512, 768, 3)
    picture = io.read_image("d/before_after.png")
    assert picture.shape[1] > 1500 and picture.ndim == 3
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "exists" in err


def test_demo_filter_gains_what_is_claimed():
    """Noise of a known level, and parameters that make the filter worth showing."""
    from denoise_ext import metrics
    from denoise_ext.cli import demo

    clean = demo.read_photograph()
    noisy = demo.add_noise(clean)
    piece = (slice(64, 320), slice(256, 512))

    def psnr(image):
        a, b = (torch.from_numpy(x[piece].copy()).permute(2, 0, 1)[None] for x in (image, clean))
        return float(metrics.psnr(a, b, 255.0)[0])

    assert psnr(noisy) == pytest.approx(20 * np.log10(255 / 25), abs=0.4)
    filtered = np.zeros_like(clean)
    filtered[piece] = demo.filter_bilateral(np.ascontiguousarray(noisy[piece]), "torch")
    assert psnr(filtered) > psnr(noisy) + 6
