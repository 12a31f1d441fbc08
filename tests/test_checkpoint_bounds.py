"""Small checkpoint files that state or hold much, and files that are not what was written."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile

import pytest
import torch
from bounded import error_and_growth
from networks import keys_under, published_chain
from safetensors.torch import save_file

from denoise_ext.models import CheckpointError, load_checkpoint
from denoise_ext.models.archive import MAX_PICKLE
from denoise_ext.models.checkpoints import MAX_CONFIG, MAX_HEADER

MIB = 1 << 20
IMPORT = "from denoise_ext import models"
# A pickle may take 72 bytes of objects for each of its own: an empty dict and the place it has.
PICKLED = 72 * MAX_PICKLE


def whole() -> bytes:
    """A checkpoint as PyTorch writes it."""
    stream = io.BytesIO()
    torch.save(keys_under("model", published_chain(1, 1)), stream)
    return stream.getvalue()


def rezipped(change, method: int = zipfile.ZIP_STORED) -> bytes:
    """A checkpoint whose records are what `change` makes of each (name, content)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole())) as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return stream.getvalue()


def inflating() -> bytes:
    zeros = bytes(256 * MIB)
    return rezipped(
        lambda name, data: zeros if name.endswith("data/0") else data, zipfile.ZIP_DEFLATED
    )


def overlapping() -> bytes:
    """A thousand names for one record of a megabyte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data/0", bytes(MIB))
        for number in range(1, 1000):
            copy = zipfile.ZipInfo(f"a/data/{number}")
            first = archive.getinfo("a/data/0")
            for name in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(copy, name, getattr(first, name))
            archive.filelist.append(copy)
        archive._didModify = True
    return stream.getvalue()


def with_pickle(body: bytes) -> bytes:
    return rezipped(lambda name, data: body if name.endswith("data.pkl") else data)


def copying() -> bytes:
    """A list of 100 000 numbers, made a dict a hundred thousand times: 10^10 items."""
    numbers = b"(" + b"K\1" * 100_000 + b"tq\1"
    return with_pickle(
        b"\x80\2]" + numbers + b"0ctorch\nSize\nq\0" + b"0(" + b"h\0h\1\x85R" * 100_000 + b"le."
    )


def nested_keys() -> bytes:
    """To hash this key takes a frame of the stack for each of its levels."""
    return with_pickle(b"\x80\2})" + b"\x85" * 1_000_000 + b"K\1s.")


PICKLES = {
    "allocating": (b"\x80\2cbuiltins\nbytearray\n\x8a\6" + (1 << 32).to_bytes(6, "little")
                   + b"\x85R."),
    "far memo": b"\x80\2Nr\xff\xff\xff\x7f.",
    "doubling": b"\x80\2c_codecs\nencode\nU\1aU\3hex\x86R.",
    "a class": b"\x80\2cbuiltins\ncomplex\nK\1\x85R.",
}  # fmt: skip


def legacy_lie() -> bytes:
    """A tensor of 4 GB of which nothing is there."""
    stream = io.BytesIO()
    state = {"model.0.weight": torch.zeros(1)}
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    assert data.count(b"K\x01N") == 1  # the storage's count
    return data.replace(b"K\x01N", b"J\0\0\0\x40N")


FILES = {
    "inflating": (inflating, "is compressed"),
    "overlapping": (overlapping, "more than the file's"),
    "copying": (copying, "would copy more than"),
    "nested keys": (nested_keys, "neither text nor a number"),
    "long pickle": (lambda: with_pickle(b"\x80\2" + b"}" * MAX_PICKLE + b"."),
                    f"at most {MAX_PICKLE} are read"),
    "long legacy pickle": (lambda: b"\x80\2" + b"}" * (2 * MAX_PICKLE) + b".",
                           f"at most {MAX_PICKLE} are read"),
    "legacy lie": (legacy_lie, "truncated or damaged"),
    **{name: (lambda body=body: with_pickle(body), "") for name, body in PICKLES.items()},
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_small_file_takes_little_memory(tmp_path, case):
    make, message = FILES[case]
    path = tmp_path / "net.pth"
    path.write_bytes(make())
    size = path.stat().st_size
    assert size < 10 * MIB
    error, growth = error_and_growth(f"models.load_checkpoint({str(path)!r})", IMPORT)
    assert error is not None and error.startswith(f"{path}: ") and message in error
    assert growth < 2 * size + 32 * MIB + (
        PICKLED if case in ("long legacy pickle", "nested keys") else 0
    )


def test_an_expanded_half_tensor_is_not_written_out(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"model.0.weight": torch.zeros(1, dtype=torch.half).expand(1 << 30)}, path)
    error, growth = error_and_growth(f"models.load_checkpoint({str(path)!r})", IMPORT)
    assert "is not stored number by number" in error
    assert growth < 32 * MIB


def safetensors(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("config, message", [
    ("[" * 30_000, "describes no model"),
    ("[" * (MAX_CONFIG + 1), f"at most {MAX_CONFIG}"),
    ('{"family": "ffdnet", "depth": 1' + " " * MAX_HEADER + "}", f"at most {MAX_HEADER}"),
], ids=["deep", "long", "longer"])  # fmt: skip
def test_deep_and_long_metadata(tmp_path, config, message):
    path = tmp_path / "net.safetensors"
    facts = {"format": "denoise_ext", "config": config, "training": config}
    path.write_bytes(safetensors({"__metadata__": facts}))
    error, growth = error_and_growth(f"models.load_checkpoint({str(path)!r})", IMPORT)
    assert error is not None and error.startswith(f"{path}: ") and message in error
    assert growth < 10 * MAX_HEADER
    error, growth = error_and_growth(f"models.read_metadata({str(path)!r})", IMPORT)
    assert error is not None and error.startswith(f"{path}: ")
    assert growth < 10 * MAX_HEADER


@pytest.mark.parametrize("config", [
    {"family": "dncnn", "depth": 2**20},
    {"family": "dxnet", "widths": [8] * 8000, "blocks": [1] * 8000},
    {"family": "nafnet", "encoder_blocks": [1] * 8000, "decoder_blocks": [1] * 8000},
    {"family": "drunet", "widths": [8] * 8000}, {"family": "sepdncnn", "depth": 2**20},
    {"family": "nafnet", "encoder_blocks": [2**20], "decoder_blocks": [1]},
])  # fmt: skip
def test_a_network_of_more_layers_than_the_file_has_tensors_is_not_built(tmp_path, config):
    path = tmp_path / "net.safetensors"
    save_file({"body.0.weight": torch.zeros(1)}, path,
              {"format": "denoise_ext", "config": json.dumps(config)})  # fmt: skip
    with pytest.raises(CheckpointError, match=r"net\.safetensors: .*describes no model of its 1 t"):
        load_checkpoint(path)
