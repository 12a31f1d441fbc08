"""The command line: denoising files; what it says, how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import BACKEND, GRAY, RGB, bomb, denoise, files, run
from PIL import Image

from denoise_ext import io
from denoise_ext.cli import main

checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures


def test_help_and_version(capsys):
    script = (
        "import sys\nimport denoise_ext\nassert 'logging' not in sys.modules\n"
        "from denoise_ext.cli import main\nassert main(['--help']) == 0\n"
        "assert main(['denoise', '--help']) == 0\n"
        "slow = {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)\nassert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
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
    from denoise_ext import tasks

    denoise(capsys, "in/a.png", "-o", "o.png", "--sigma", "20", "--model", checkpoints["colour"])
    expected = tasks.denoise(RGB, checkpoints["colour"], 20.0, backend=BACKEND[1])
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
    "folder under a file": (["in", "-o", "file/out/"], 2, "cannot make folder"),
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


def test_missing_sigma_is_estimated_and_said(folder, checkpoints, capsys):
    from denoise_ext import tasks

    model = checkpoints["gray"]
    code, out, err = denoise(capsys, "in/b.png", "-o", "o.png", "--model", model)
    sigma = tasks.estimate_sigma(GRAY)
    assert (code, err) == (0, "")
    assert f"estimated, {sigma:.1f}\n" in out
    expected = tasks.denoise(GRAY, model, sigma, backend=BACKEND[1])
    np.testing.assert_array_equal(io.read_image("o.png"), expected)


def test_debug_shows_the_traceback(folder, monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_DEBUG", "1")
    with pytest.raises(ValueError, match="no_model"):
        main(["denoise", "in", "-o", "out", "--model", "no_model", "--sigma", "5"])


def test_interrupted(folder, monkeypatch, capsys):
    from denoise_ext.cli import denoise as command

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "list_jobs", interrupt)
    code, _, err = run(capsys, "denoise", "in", "-o", "out")
    assert code == 130 and err == "denoise-ext: interrupted\n"


def test_unknown_command(capsys):
    code, _, err = run(capsys, "sharpen", "x.png")
    assert code == 2 and "sharpen" in err
    assert run(capsys)[0] == 2


def test_one_picture_loads_nothing_that_is_slow_and_not_needed(tmp_path):
    io.write_image(tmp_path / "a.png", GRAY)
    arguments = ["denoise", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--sigma", "20"]
    script = (
        "import sys\nfrom denoise_ext.cli import main\n"
        f"assert main({[*arguments, *BACKEND]}) == 0\n"
        "slow = {'sympy', 'pydantic', 'rich', 'torch._dynamo'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert (tmp_path / "b.png").is_file()


def test_the_process_ends_with_the_commands_code_and_words(tmp_path):
    io.write_image(tmp_path / "a.png", GRAY)
    command = [sys.executable, "-m", "denoise_ext.cli", "denoise", "a.png", "-o", "b.png", *BACKEND]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "1 image denoised" in done.stdout
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 3 and "exists" in again.stderr


def test_an_idle_executor_of_an_imported_module_does_not_keep_the_process(tmp_path):
    io.write_image(tmp_path / "a.png", GRAY)
    (tmp_path / "my_pool.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "POOL = ThreadPoolExecutor(1)\nPOOL.submit(int).result()\n"
    )
    command = [sys.executable, "-m", "denoise_ext.cli", "denoise", "a.png", "-o", "b.png",
               "--import", "my_pool", *BACKEND]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


DENOISE = ["denoise", "a.png", *BACKEND, "-o"]


def without(stream: int, *arguments: str) -> subprocess.CompletedProcess:
    """The command with stdin, stdout or stderr closed, as 2>&- in a shell."""
    script = f"import os, sys; os.close({stream}); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "denoise_ext.cli", *arguments]
    return subprocess.run([sys.executable, "-c", script, *command], capture_output=True)


@pytest.mark.rotates()
@pytest.mark.parametrize(
    "stream, arguments, code, words",
    [
        (1, [*DENOISE, "b.png"], 0, b""),
        (2, [*DENOISE, "b.png"], 0, b""),
        (2, ["denoise", "none.png", "-o", "b.png"], 2, b""),
        (1, [*DENOISE, "-"], 2, b"standard output"),
        (0, ["denoise", "-", "-o", "b.png"], 2, b"standard input"),
        (1, ["models", "dncnn*"], 0, b""),
    ],
)
def test_a_process_without_a_stream(tmp_path, monkeypatch, stream, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    io.write_image("a.png", GRAY)
    done = without(stream, *arguments)
    assert (done.returncode, done.stdout, bool(done.stderr)) == (code, b"", bool(words)), done
    assert words in done.stderr
    if arguments[-1] == "b.png" and code == 0:
        assert io.read_image("b.png").shape == GRAY.shape


def test_no_word_of_stderr_in_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    io.write_image("a.png", GRAY)
    done = without(2, *DENOISE, "-")
    assert done.returncode == 0 and main([*DENOISE, "b.png"]) == 0
    assert done.stdout == Path("b.png").read_bytes()
