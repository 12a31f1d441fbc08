"""``denoise-ext compress`` and ``decompress``: files, folders, resuming, bad files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from codecs_small import picture, sealed_file

from denoise_ext import cli, codec, io


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two pictures and a codec, which is the current one."""
    from denoise_ext.io import codecs

    monkeypatch.setattr(codecs, "_registered", {})
    monkeypatch.chdir(tmp_path)
    sealed_file(tmp_path / "codec.safetensors")
    (tmp_path / "in").mkdir()
    io.write_image("in/a.png", picture(40, 52))
    io.write_image("in/b.tif", picture(33, 20, 1, "uint16"))
    return tmp_path


MODEL = ("--model", "codec.safetensors")


def test_a_file_and_back(folder):
    assert cli.main(["compress", "in/a.png", "-o", "a.dxc", "--quality", "70", *MODEL, "-q"]) == 0
    data = (folder / "a.dxc").read_bytes()
    assert data == codec.encode(picture(40, 52), 70, model="codec.safetensors")
    assert cli.main(["decompress", "a.dxc", "-o", "a.png", *MODEL, "-q"]) == 0
    np.testing.assert_array_equal(
        io.read_image("a.png"), codec.decode(data, model="codec.safetensors")
    )
    assert cli.main(["compress", "in/a.png", "-o", "a.dxc", *MODEL, "-q"]) != 0  # it exists


def test_folders_and_resume(folder, capsys):
    command = ["compress", "in", "-o", "small", "--sigma", "0", *MODEL, "--json"]
    assert cli.main(command) == 0
    assert sorted(path.name for path in (folder / "small").glob("*.dxc")) == ["a.dxc", "b.dxc"]
    capsys.readouterr()
    assert cli.main([*command, "--resume"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines if "status" in line] == ["skipped", "skipped"]
    assert cli.main([*command, "--resume", "--quality", "80"]) == 3  # other files are there
    assert cli.main(["decompress", "small", "-o", "back", *MODEL, "-q"]) == 0
    assert io.read_image("back/b.png").dtype == np.uint16
    assert io.read_image("back/a.png").shape == (40, 52, 3)


def test_damage_is_named_and_the_rest_is_written(folder, capsys):
    (folder / "bad.dxc").write_bytes(
        codec.encode(picture(64, 64), 80, 0.0, model="codec.safetensors", tile=32)[:-3]
    )
    assert cli.main(["decompress", "bad.dxc", "-o", "bad.png", *MODEL]) != 0
    shown = capsys.readouterr()
    assert "(1, 1)" in shown.out + shown.err and "bad.dxc" in shown.out + shown.err
    assert not (folder / "bad.png").exists()
    assert cli.main(["decompress", "bad.dxc", "-o", "bad.png", "--partial", *MODEL]) == 0
    shown = capsys.readouterr()
    assert "(1, 1)" in shown.out + shown.err
    assert io.read_image("bad.png").shape == (64, 64, 3)


def test_wrong_kinds_and_missing_files(folder, capsys):
    assert cli.main(["decompress", "in/a.png", "-o", "x.png", *MODEL]) != 0
    assert "DXC" in capsys.readouterr().err
    assert cli.main(["compress", "in/a.png", "-o", "x.dxc", "--model", "none.safetensors"]) != 0
    assert "none.safetensors" in capsys.readouterr().err
    assert not (folder / "x.dxc").exists()


def test_the_codec_that_ships_needs_no_file(folder, capsys):
    assert cli.main(["compress", "in/a.png", "-o", "x.dxc", "--quality", "80"]) == 0
    assert cli.main(["decompress", "x.dxc", "-o", "x.png"]) == 0
    before, after = (io.read_image(name).astype(float) for name in ("in/a.png", "x.png"))
    assert after.shape == before.shape
    assert np.abs(after - before).mean() < 16
    assert cli.main(["decompress", "x.dxc", "-o", "y.png", *MODEL]) != 0  # of another network
    assert "x.dxc" in capsys.readouterr().err


def test_quality_of_denoised_files(folder, capsys):
    """``denoise -o out.webp --quality Q``."""
    io.write_image("in/c.png", picture(24, 40))
    for suffix in ("jpg", "webp", "avif"):
        sizes = []
        for quality in ("90", "20"):
            out = f"{quality}.{suffix}"
            command = ["denoise", "in/c.png", "-o", out, "--sigma", "5", "--quality", quality, "-q"]
            assert cli.main(command) == 0
            sizes.append((folder / out).stat().st_size)
        assert sizes[0] > sizes[1]
    assert cli.main(["denoise", "in/c.png", "-o", "x.png", "--sigma", "5", "--quality", "9"]) != 0
    assert "--quality 9" in capsys.readouterr().err
    assert cli.main(["denoise", "in/c.png", "-o", "x.jpg", "--quality", "101"]) != 0
    assert "--quality" in capsys.readouterr().err
    command = ["denoise", "in/c.png", "-o", "out/", "--sigma", "5", "--format", "webp"]
    assert cli.main([*command, "--quality", "60", "-q"]) == 0
    assert cli.main([*command, "--quality", "60", "-q", "--resume"]) == 0
    assert cli.main([*command, "--quality", "50", "-q", "--resume"]) == 3  # another result
