"""Small checkpoint files that state or hold much, and files that are not what was written."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

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


def called(function: bytes, argument: bytes, calls: int) -> bytes:
    """A list of results: the function, of the one memoised tuple of arguments, again and again."""
    return b"\x80\2](" + argument + b"q\1" + function + b"q\0" + b"h\0h\1R" * calls + b"e."


NUMBERS = b"(" + b"K\1" * 100_000 + b"t"
NONES = b"(" + b"N" * 500_000 + b"t"
COPYING = {
    # a Size of 100 000 numbers a hundred thousand times: 10^10 items
    "copying": called(b"ctorch\nSize\n", NUMBERS + b"\x85", 100_000),
    "many arguments": called(b"ctorch\ndevice\n", NONES, 100_000),
    "many arguments of arguments": called(
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n(" + NUMBERS + b"tNt", 100_000),
    "many attributes": b"\x80\2](}(" + b"".join(
        b"J" + struct.pack("<i", number) + b"N" for number in range(100_000)) + b"uq\1"
        + b"ccollections\nOrderedDict\nq\0" + b"h\0)Rh\1b" * 100_000 + b"e.",
}  # fmt: skip


def nested_keys() -> bytes:
    """To hash this key takes a frame of the stack for each of its levels."""
    return with_pickle(b"\x80\2})" + b"\x85" * 1_000_000 + b"K\1s.")


def colliding_keys() -> bytes:
    """Numbers of one hash, each of which is compared with all before."""
    numbers = (number * sys.hash_info.modulus for number in range(200_000))
    keys = b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in numbers)
    return with_pickle(b"\x80\2}(" + keys + b"u.")


PICKLES = {
    "allocating": (b"\x80\2cbuiltins\nbytearray\n\x8a\6" + (1 << 32).to_bytes(6, "little")
                   + b"\x85R."),
    "far memo": b"\x80\2Nr\xff\xff\xff\x7f.",
    "doubling": b"\x80\2c_codecs\nencode\nU\1aU\3hex\x86R.",
    "a class": b"\x80\2cbuiltins\nslice\nK\1\x85R.",
    "a tensor of a size": b"\x80\2ctorch\nTensor\n\x8a\6" + (1 << 32).to_bytes(6, "little")
                          + b"\x85R.",
    "a rebuilt bytearray": b"\x80\2ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\n"
                           b"ctorch\nTensor\n\x8a\6" + (1 << 32).to_bytes(6, "little")
                           + b"\x85NtR.",
    "long references": b"\x80\2](" + NONES + b"q\1" + b"h\1Q" * 100_000 + b"e.",
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
    **{name: (lambda body=body: with_pickle(body), "would copy more than")
       for name, body in COPYING.items()},
    "stated bytes": (lambda: b"\x80\5\x96" + struct.pack("<Q", 1 << 30) + b".", "opcode 150"),
    "nested keys": (nested_keys, "neither text nor a number"),
    "colliding keys": (colliding_keys, "a key of"),
    "long pickle": (lambda: with_pickle(b"\x80\2" + b"}" * MAX_PICKLE + b"."),
                    f"at most {MAX_PICKLE} are read"),
    "long legacy pickle": (lambda: b"\x80\2" + b"}" * (2 * MAX_PICKLE) + b".",
                           f"at most {MAX_PICKLE} are read"),
    "legacy lie": (legacy_lie, "truncated or damaged"),
    **{name: (lambda body=body: with_pickle(body), "") for name, body in PICKLES.items()},
}  # fmt: skip


def one_of_each() -> dict:
    """All kinds of objects that `torch.load(weights_only=True)` reads by itself."""
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(torch.optim.Adam([weight]), [10, 20, 20])
    noted, named = torch.zeros(2), torch.nn.Parameter(torch.zeros(2))
    noted.note, named.note = "attribute of a tensor", "attribute of a parameter"
    return {
        "scheduler": scheduler.state_dict(), "set": {1, "a", None}, "complex": 1 - 2j,
        "bytes": b"a\xff", "bytearray": bytearray(b"a\xff"), "size": torch.Size((1, 2)),
        "ordered": OrderedDict(a=1), "dtypes": [torch.float32, torch.uint16, torch.float8_e5m2],
        "devices": [torch.device("cpu"), torch.device("cuda", 1)], "layout": torch.strided,
        "parameter": weight, "attributes": [noted, named], "sparse": torch.eye(3).to_sparse(),
        "new dtypes": [torch.zeros(2, dtype=torch.uint16), torch.zeros(2).to(torch.float8_e5m2)],
        "complex numbers": torch.zeros(2, dtype=torch.complex64), "scheme": torch.per_tensor_affine,
        "number": 3 << 70, "storage": torch.zeros(2).untyped_storage(),
    }  # fmt: skip


OBJECTS = one_of_each()


UNTYPED = ("new dtypes", "storage")  # torch.load does not read them from the older format
KINDS = [(name, older) for name in OBJECTS for older in (False, True)
         if not (older and name in UNTYPED)]  # fmt: skip


@pytest.mark.parametrize("name, older", KINDS)
def test_what_pytorch_reads_beside_the_weights_is_read(tmp_path, name, older):
    path = tmp_path / "net.pth"
    content = {"state_dict": keys_under("model", published_chain(1, 1)), name: OBJECTS[name]}
    torch.save(content, path, _use_new_zipfile_serialization=not older)
    torch.load(path, weights_only=True)
    load_checkpoint(path)


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
        PICKLED
        if case
        in ("long legacy pickle", "nested keys", "colliding keys", *COPYING, "long references")
        else 0
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
