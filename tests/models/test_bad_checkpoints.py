"""Files that are no checkpoints: one clear error each, and nothing executed."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import pytest
import torch
from networks import keys_under, published_chain
from safetensors.torch import save_file

from denoise_ext.models import CheckpointError, create_model, load_checkpoint, save_model
from denoise_ext.training.checkpoint import load_state


class _Bomb:
    """Unpickling this without protection makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_bomb_is_not_executed(tmp_path, legacy):
    proof = tmp_path / "executed"
    path = tmp_path / "bomb.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"model.0.weight": _Bomb(str(proof))}))
    else:
        torch.save({"model.0.weight": _Bomb(str(proof))}, path)
    with pytest.raises(CheckpointError, match=r"bomb\.pth: not a.*nothing in it was executed") as e:
        load_checkpoint(path)
    assert not proof.exists()
    assert "weights_only" not in str(e.value)


def arrays(write: Callable[[BinaryIO], object]) -> bytes:
    """What NumPy writes."""
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def bad_files() -> dict[str, tuple[str, object, str]]:
    """id -> (file name, content: bytes or an object to torch.save, part of the message)."""
    chain = keys_under("model", published_chain(1, 1))
    nan = OrderedDict(chain, **{"model.2.weight": torch.full((6, 6, 3, 3), float("nan"))})
    hole = OrderedDict((k, v) for k, v in chain.items() if not k.startswith("model.2."))
    norm = keys_under("model", published_chain(1, 1, norm=True))
    del norm["model.3.running_var"]
    weights = {"model.0.weight": np.zeros((4, 1, 3, 3), np.float32)}
    ipol = keys_under("intermediate_dncnn.itermediate_dncnn", published_chain(7, 4))
    return {
        "MATLAB 5": ("net.mat", b"MATLAB 5.0 MAT-file, Platform: PCWIN64".ljust(128), "MATLAB"),
        "MATLAB 5 renamed": ("net.pth", b"MATLAB 5.0 MAT-file".ljust(128), "MATLAB (.mat)"),
        "MATLAB 7.3": ("net.pth", b"\x89HDF\r\n\x1a\n".ljust(900), "MATLAB (.mat) or HDF5"),
        "MATLAB 4": ("net.mat", b"\0\0\0\0\1\0\0\0", "MATLAB (.mat)"),
        "NPY": ("w.npy", arrays(lambda f: np.save(f, weights["model.0.weight"])), "NumPy (.npy)"),
        "NPZ": ("w.npz", arrays(lambda f: np.savez(f, **weights)), "NumPy (.npz)"),
        "compressed NPZ": (
            "w.pth", arrays(lambda f: np.savez_compressed(f, **weights)), "NumPy (.npz)",
        ),
        "IPOL of other channels": ("net.pth", ipol, "7 input and 4 output channels"),
        "empty": ("net.pth", b"", "empty"),
        "text": ("net.pth", b"hello world\n", "not a"),
        "empty safetensors": ("net.safetensors", b"", "empty"),
        "text safetensors": ("net.safetensors", b"hello world\n", "not a readable safetensors"),
        "not a dict": ("net.pth", [torch.zeros(1)], "holds no state_dict"),
        "nothing": ("net.pth", {}, "holds no state_dict"),
        "numbers": ("net.pth", {"a": 1}, "not tensors: a"),
        "unknown keys": (
            "net.pth", {"encoder.0.weight": torch.zeros(1)},
            "unknown keys: encoder.0.weight\nrecognised layouts",
        ),
        "one unknown key": ("net.pth", {**chain, "x": torch.zeros(1)}, "unknown keys: x"),
        "two prefixes": ("net.pth", {**chain, "dncnn.0.bias": torch.zeros(6)}, "unknown keys"),
        "missing layer": ("net.pth", hole, "model.4.weight of shape (6, 6, 3, 3) is not expected"),
        "missing statistics": ("net.pth", norm, "model.3: not a batch normalisation"),
        "not finite": ("net.pth", nan, "is not finite"),
        "5x5": ("net.pth", {"model.0.weight": torch.zeros(4, 1, 5, 5),
                            "model.2.weight": torch.zeros(1, 4, 5, 5)}, "3x3"),
        "two channels": ("net.pth", keys_under("model", published_chain(2, 2)), "2 input"),
        "IRCNN": ("net.pth", keys_under("model", published_chain(1, 1, 7)), "IRCNN"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_files())
def test_bad_file(tmp_path, case):
    name, content, message = bad_files()[case]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_truncated_file(tmp_path, suffix, keep):
    path = tmp_path / f"net{suffix}"
    model = create_model("ffdnet_gray", width=5, depth=3)
    if suffix == ".pth":
        torch.save(keys_under("model", published_chain(1, 1)), path)
    else:
        save_model(model, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=f"net{suffix}: "):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            load_checkpoint(path)


def test_wrong_metadata(tmp_path):
    path = tmp_path / "net.safetensors"
    for config in ('{"family": [1]}', "{", '{"family": "ffdnet", "depth": 0}', "[]"):
        save_file(
            {"body.0.weight": torch.zeros(1)}, path, {"format": "denoise_ext", "config": config}
        )
        with pytest.raises(CheckpointError, match="its metadata describes no model"):
            load_checkpoint(path)
    for family in ("unet", "u" * 60_000):
        config = f'{{"family": "{family}"}}'
        save_file(
            {"body.0.weight": torch.zeros(1)}, path, {"format": "denoise_ext", "config": config}
        )
        with pytest.raises(CheckpointError, match=r"family 'u[^ ]*', .*--import") as caught:
            load_checkpoint(path)
        assert len(str(caught.value)) < 500
    save_file(
        {"body.0.weight": torch.zeros(1)}, path,
        {"format": "denoise_ext", "config": '{"family": "ffdnet"}'},
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="weights do not fit"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "config",
    [
        '{"family": "ffdnet", "width": 1000000}',
        '{"family": "ffdnet", "width": 100000000000000000000}',
        '{"family": "dncnn", "depth": 1000000000}',
        '{"family": "dxnet", "widths": [4000000, 8], "blocks": [1, 1]}',
        '{"family": "nafnet", "middle_blocks": 100000000}',
        '{"family": "drunet", "widths": [64, 100000000]}',
        '{"family": "deconvnet", "levels": 1000000}',
    ],
)
def test_a_small_file_that_describes_a_huge_network(tmp_path, config):
    # Refused without building it: each of these would take terabytes, or hours.
    path = tmp_path / "net.safetensors"
    save_file({"body.0.weight": torch.zeros(1)}, path, {"format": "denoise_ext", "config": config})
    with pytest.raises(CheckpointError, match=r"net\.safetensors: (weights do not|.*describes no)"):
        load_checkpoint(path)


def _cut_within_a_number(data: bytes) -> bytes:
    place = data.index(b"M\xe9\x03")  # the older format's protocol, 1001
    return data[: place + 2]


def _storage_of_another_name(data: bytes) -> bytes:
    key = re.findall(rb"X.\0\0\0(\d+)", data)[-1]  # in the list of storages, at the end
    place = data.rindex(key)
    return data[:place] + b"x" + data[place + 1 :]


@pytest.mark.parametrize("damage", [_cut_within_a_number, _storage_of_another_name])
def test_damage_that_torch_reports_in_its_own_ways(tmp_path, damage):
    """struct.error and AssertionError, which the fuzzer found to get through."""
    path = tmp_path / "net.pth"
    chain = keys_under("model", published_chain(1, 1))
    torch.save(chain, path, _use_new_zipfile_serialization=False)
    path.write_bytes(damage(path.read_bytes()))
    for load, error in ((load_checkpoint, CheckpointError), (load_state, ValueError)):
        with pytest.raises(error, match=r"net\.pth: not a"):
            load(path)
