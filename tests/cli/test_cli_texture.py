"""``--texture`` on the command line: what it prints, what the file states, what it refuses."""

from __future__ import annotations

import json

import command_line
import numpy as np
import pytest
from command_line import HAVE_NATIVE, denoise, run
from y4m_files import y4m

from denoise_ext import io

folder = command_line.folder  # fixture

pytestmark = pytest.mark.skipif(not HAVE_NATIVE, reason="needs the native library")


def test_it_says_what_it_does_and_the_file_states_it(folder, capsys):
    options = ["--sigma", "20", "--texture", "0.5"]
    code, out, err = denoise(capsys, "in/a.png", "-o", "out.png", *options)
    assert code == 0 and "1 image denoised" in out
    assert "texture 0.5" in err and "made up" in err
    assert b'denoise_ext:texture="0.5 of 1' in io.read_picture("out.png").metadata.xmp
    denoise(capsys, "in/a.png", "-o", "plain.png", "--sigma", "20")
    assert io.read_picture("plain.png").metadata.xmp is None
    assert not np.array_equal(io.read_image("plain.png"), io.read_image("out.png"))
    code, _, err = denoise(capsys, "in/a.png", "-o", "quiet.png", *options, "-q")
    assert (code, err) == (0, "")
    assert b"texture" in io.read_picture("quiet.png").metadata.xmp


def test_a_batch_resumes_and_another_texture_is_another_result(folder, capsys):
    options = ["in/a.png", "-o", "out/", "--sigma", "20", "--json"]
    for texture, status in (("0.5", "written"), ("0.5", "skipped"), ("1", "failed")):
        _, out, _ = denoise(capsys, *options, "--texture", texture, "--resume")
        assert json.loads(out.splitlines()[0])["status"] == status


def test_a_format_that_cannot_state_it_is_refused(folder, capsys):
    code, _, err = denoise(capsys, "in/a.png", "-o", "out.bmp", "--sigma", "20", "--texture", "1")
    assert code == 3
    assert "BMP" in err and "XMP" in err
    assert not (folder / "out.bmp").exists()


@pytest.mark.parametrize("texture", ["1.5", "-1", "much", "nan"])
def test_a_texture_outside_is_refused(folder, capsys, texture):
    code, _, err = run(capsys, "denoise", "in/a.png", "-o", "o.png", f"--texture={texture}")
    assert code == 2 and texture in err and "--texture" in err


def test_a_model_without_a_partner_is_one_error(folder, capsys):
    code, _, err = denoise(
        capsys, "in/a.png", "-o", "o.png", "--texture", "1", "--model", "dxnet_s_photo"
    )
    assert code == 2 and "dxnet_s_photo" in err and "dxnet_s_color" in err


def test_a_film_has_no_place_to_state_it(folder, capsys):
    (folder / "in.y4m").write_bytes(y4m("420jpeg", 2, width=40, height=24))
    code, _, err = run(capsys, "video", "in.y4m", "out.y4m", "--model", "dxnet_s_texture")
    assert code == 2 and "dxnet_s_texture" in err
    assert not (folder / "out.y4m").exists()


def test_the_partners_own_name_says_it_too(folder, capsys):
    how = ["in/a.png", "-o", "out.png", "--sigma", "20", "--model", "dxnet_s_texture"]
    code, _, err = denoise(capsys, *how)
    assert code == 0 and "texture 1:" in err and "made up" in err
