"""Pictures through a codec and back: kinds of pixels, metadata, tiles, damage, a second decoder."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from codecs_small import SMALL, picture, sealed_file, untrained
from picture_files import SRGB, XMP, exif_block
from plain_dxc import plain_decode

from denoise_ext import codec, io
from denoise_ext._loader import native
from denoise_ext.codec import container
from denoise_ext.codec.container import HEADER_BYTES, read_header
from denoise_ext.metrics import psnr
from denoise_ext.models import load_checkpoint, save_model
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.runtime import RunOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sealed_file(tmp_path_factory.mktemp("codec") / "small.safetensors")


KINDS = [(1, "uint8"), (2, "uint8"), (3, "uint8"), (4, "uint8"), (1, "uint16"), (3, "uint16"),
         (4, "uint16")]  # fmt: skip


@pytest.mark.parametrize("channels, dtype", KINDS)
def test_a_picture_comes_back_about_as_it_was(model, channels, dtype):
    image = picture(45, 70, channels, dtype)
    data = codec.encode(image, 100, 0.0, model=model)
    back = codec.decode(data, model=model)
    assert back.shape == image.shape and back.dtype == image.dtype
    white = np.iinfo(dtype).max
    if channels in (2, 4):
        np.testing.assert_array_equal(back[..., -1], image[..., -1])  # alpha is exact
    one, other = (torch.from_numpy(x / white).reshape(1, 1, -1, 1) for x in (image, back))
    # The untrained codec keeps 32 of 768 Walsh functions of each block: a blurred picture.
    assert psnr(one, other).item() > 15


@pytest.mark.parametrize("channels, dtype", [(1, "uint8"), (3, "uint8"), (4, "uint16")])
def test_a_second_decoder_makes_the_same_picture(model, channels, dtype):
    image = picture(40, 66, channels, dtype)
    data = codec.encode(image, 60, model=model, tile=32)
    ours, theirs = codec.decode(data, model=model), plain_decode(data, model)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    # The arithmetic of the synthesis may differ in its last bits: one level of 255.
    levels = 1 if dtype == "uint8" else 257
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= levels


def test_every_instruction_set_and_number_of_threads_decodes_the_same_latents(model):
    network = codec.load_codec(model)
    image = picture(80, 112)
    latents = network.latents(image, 5.0, 70)
    files = set()
    threads = torch.get_num_threads()
    for isa in native().isa_available():
        native().force_isa(isa)
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                data = network.encode_tile(latents, 70)
                files.add(data)
                assert torch.equal(network.decode_tile(data, *latents.shape[:2], 70), latents)
        finally:
            native().force_isa("")
            torch.set_num_threads(threads)
    assert len(files) == 1


@pytest.mark.parametrize("tile", [16, 48, 512])
def test_tiles_of_the_file_do_not_change_the_picture(model, tile):
    image = picture(50, 90)
    data = codec.encode(image, 50, 0.0, model=model, tile=tile)
    whole = codec.encode(image, 50, 0.0, model=model)
    header = read_header(data)
    assert header.grid == (-(-50 // tile), -(-90 // tile)) and header.tile == tile
    np.testing.assert_array_equal(codec.decode(data, model=model), codec.decode(whole, model=model))


def test_tiles_of_the_computation_do_not_change_the_latents(model):
    image = picture(400, 360)
    whole = codec.load_codec(model).latents(image, 3.0, 50)
    parts = codec.load_codec(model, RunOptions(device="cpu", tile=320)).latents(image, 3.0, 50)
    assert (whole != parts).float().mean() < 1e-3  # where a sum lies at a half


def test_higher_qualities_take_more_bytes(model):
    image = picture(64, 96)
    sizes = [len(codec.encode(image, quality, 0.0, model=model)) for quality in (0, 33, 50, 100)]
    assert sizes == sorted(set(sizes))


def test_metadata(model):
    metadata = io.Metadata(SRGB, exif_block(), XMP, (3000.0, 2000.0))
    before = io.picture_of(picture(20, 30), metadata=metadata)
    after = codec.decode_picture(codec.encode_picture(before, model=model), model=model)
    assert after.metadata == metadata and after.format == "DXC"


def test_a_damaged_tile_is_named_and_the_rest_decodes(model):
    image = picture(64, 96)
    data = bytearray(codec.encode(image, 80, 0.0, model=model, tile=32))
    whole = codec.decode(bytes(data), model=model)
    rows, columns = read_header(bytes(data)).grid
    table = HEADER_BYTES
    lengths = [struct.unpack_from("<I", data, table + 8 * i)[0] for i in range(rows * columns)]
    start = table + 8 * rows * columns + 4
    data[start + sum(lengths[:4]) + lengths[4] // 2] ^= 0x10  # tile (1, 1)
    with pytest.raises(codec.DamagedError, match=r"\(1, 1\)") as caught:
        codec.decode(bytes(data), model=model)
    assert caught.value.tiles == ((1, 1),)
    partial = codec.decode_picture(bytes(data), model=model, partial=True)
    assert any("(1, 1)" in note for note in partial.notes)
    made = partial.frames[0]
    # the synthesis reads 2 pixels of each of its levels beside a place: 2 * (2 + 4 + 8 + 16)
    np.testing.assert_array_equal(made[:2, :2], whole[:2, :2])
    assert (made[40:56, 40:56] != whole[40:56, 40:56]).any()
    # a file that was cut off misses its last tiles
    short = bytes(data[: start + sum(lengths[:4])])
    with pytest.raises(codec.DamagedError) as caught:
        codec.decode(short, model=model)
    assert caught.value.tiles == ((1, 1), (1, 2))


def test_a_damaged_header_table_or_chunk_is_named(model):
    before = io.picture_of(picture(20, 30), metadata=io.Metadata(exif=exif_block()))
    data = codec.encode_picture(before, model=model)
    for place, named in ((12, "header"), (HEADER_BYTES + 20, "EXIF"), (9, "header")):
        bad = bytearray(data)
        bad[place] ^= 1
        with pytest.raises(codec.DamagedError, match=named):
            codec.decode(bytes(bad), model=model)
    for bad, named in ((b"PNG", "not a DXC"), (data[:30], "header"), (data[:60], "table"),
                       (data[:8] + b"\2" + data[9:], "version 2")):  # fmt: skip
        with pytest.raises(io.ImageError, match=named):
            codec.decode(bad, model=model)
    with pytest.raises(io.ImageError, match=r"30 x 20.*599"):
        codec.decode(data, model=model, max_pixels=599)


def test_alpha_whose_own_checksum_does_not_fit(model):
    """zlib finds it when it reads on after the last row."""
    data = codec.encode(picture(20, 30, 4), model=model)
    contents = container.read_file(data)
    alpha = contents.chunks[container.ALPHA]
    bad = alpha[:-1] + bytes([alpha[-1] ^ 1])
    data = container.write_file(
        contents.header, {container.ALPHA: bad}, [tile for tile in contents.tiles if tile]
    )
    with pytest.raises(codec.DamagedError, match="alpha"):
        codec.decode(data, model=model)
    assert (codec.decode(data, model=model, partial=True)[..., 3] == 255).all()


def test_a_file_of_another_codec_is_refused(model, tmp_path):
    other = sealed_file(tmp_path / "other.safetensors", seed=1)
    data = codec.encode(picture(20, 30), model=model)
    with pytest.raises(io.ImageError, match=codec.load_codec(other).digest.hex()):
        codec.decode(data, model=other)


def test_wrong_arguments_are_named(model, tmp_path):
    image = picture(20, 30)
    for arguments, named in (
        ({"quality": 101}, "quality.*101"), ({"quality": 5.0}, "quality.*5.0"),
        ({"sigma": -1}, "sigma.*-1"), ({"sigma": "a"}, "sigma.*'a'"), ({"tile": 20}, "tile.*20"),
        ({"tile": 8192}, "tile.*8192"), ({"model": tmp_path / "none"}, "model.*none"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=named):
            codec.encode(image, **{"model": model, **arguments})
    for bad, named in ((image.astype(float), "float64"), (image[:0], "empty"), ([1], "list"),
                       (image[None], "H, W")):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=f"image.*{named}"):
            codec.encode(bad, model=model)
    save_model(untrained(), tmp_path / "open.safetensors")
    with pytest.raises(ValueError, match=r"open\.safetensors.*sealed"):
        codec.encode(image, model=tmp_path / "open.safetensors")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_of_the_caller_do_not_matter(model, mode):
    image = picture(64, 64)
    expected = codec.decode(codec.encode(image, sigma=0, model=model), model=model)
    with mode():
        found = codec.decode(codec.encode(image, sigma=0, model=model), model=model)
    np.testing.assert_array_equal(found, expected)


def test_without_weights_that_ship_a_file_is_needed(monkeypatch):
    from denoise_ext.codec import coded_network

    monkeypatch.setattr(coded_network, "pretrained_info", lambda name: None)
    with pytest.raises(ValueError, match=r"model: dxcodec_1 has no trained weights"):
        codec.encode(picture(20, 30))


def test_noise_is_measured_where_no_level_is_given(model, monkeypatch):
    image = picture(64, 64)
    assert codec.encode(image, model=model) == codec.encode(
        image, sigma=codec.pictures.estimate_sigma(image), model=model
    )
    tiny = picture(5, 4)  # too small to be measured
    assert codec.encode(tiny, model=model) == codec.encode(tiny, sigma=0.0, model=model)


def test_io_reads_and_writes_registered_files(model, tmp_path, monkeypatch):
    from denoise_ext.io import codecs

    monkeypatch.setattr(codecs, "_registered", {})
    codec.register_format(model)
    image = picture(33, 47)
    before = io.picture_of(image, metadata=io.Metadata(exif=exif_block()))
    path = tmp_path / "a.dxc"
    io.write_picture(path, before, quality=70)
    assert path.read_bytes() == codec.encode_picture(before, 70, model=model)
    after = io.read_picture(path)
    assert after.format == "DXC" and after.metadata.exif == before.metadata.exif
    np.testing.assert_array_equal(after.frames[0], codec.decode(path.read_bytes(), model=model))
    io.write_picture(tmp_path / "b.dxc", before)
    assert (tmp_path / "b.dxc").read_bytes() == codec.encode_picture(before, model=model)


def test_a_sealed_network_keeps_its_numbers_in_a_file(model):
    network = load_checkpoint(model)
    assert isinstance(network, DXCodec) and network.config["sealed"] is True
    assert network.prior.weights.dtype == torch.int16
    assert bool((network.prior.frequencies.long().sum(1) == 4096).all())
    assert network.config["latents"] == SMALL["latents"]
    with pytest.raises(RuntimeError, match="sealed"):
        network.compute(
            {"image": torch.zeros(1, 3, 16, 16), "noise_map": torch.zeros(1, 1, 1, 1),
             "level": torch.zeros(1, 1, 1, 1)}, {},
        )  # fmt: skip


def test_a_name_is_no_data():
    with pytest.raises(TypeError, match="data must be the bytes of a file, got str"):
        codec.decode("photo.dxc")
