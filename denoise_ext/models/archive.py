"""What a PyTorch file holds, found out before PyTorch reads it: whole, plain, and no larger.

`torch.load(weights_only=True)` runs no code of the file, but believes its sizes: a record that
inflates a thousandfold, a pickle that copies a list again and again, a cut that reads as anything.
Here the pickles are walked with stand-ins for tensors first.

Layouts: PyTorch's `torch/serialization.py`; PKWARE's APPNOTE.TXT 6.3, section 4.3, for ZIP.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch

from denoise_ext.models.recognise import CheckpointError

MAX_PICKLE = 1 << 22
"""Most bytes of a file's pickles: 4 MiB, some 20 000 tensors. An object of them takes up to 72."""
_MAX_COPIED = 1 << 20  # items that calls in a pickle may copy in all
_ZIP, _END = b"PK\3\4", b"PK\5\6"  # of the first record; of the end of the central directory
_END_SIZE = 22
_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64
_MAGIC = 0x1950A86A20F9469CFC6C  # of the files that PyTorch wrote before 1.6


def with_checksum(archive: bytearray) -> None:
    """Append the SHA-256 of all bytes before it to a ZIP archive, as the archive's comment."""
    archive[-2:] = struct.pack("<H", _COMMENT)
    archive += _MARK + hashlib.sha256(archive).hexdigest().encode()


def check_file(path: Path, *, records: bool = False) -> bool:
    """Whether the file carries a checksum, which is right then.

    Args:
        path: a file that PyTorch wrote.
        records: check every record's CRC-32 where there is no checksum.

    Raises:
        CheckpointError: it is cut or damaged, holds anything but plain data, or would take more
            memory than its own bytes account for.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != _ZIP:
            file.seek(0)
            _check_legacy(file, size)
            return False
        checked = _check_end(file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                _check_records(archive, size)
                if records and not checked and (damaged := archive.testzip()):
                    raise CheckpointError(f"damaged: record {damaged!r} fails its CRC-32")
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"not a readable PyTorch file ({error})") from None
    return checked


def _check_end(file: io.BufferedReader, size: int) -> bool:
    """Refuse an archive that is cut; whether it has a checksum. Raises if that is wrong."""
    file.seek(max(0, size - _END_SIZE - _COMMENT))
    tail = file.read()
    if tail[-_END_SIZE:].startswith(_END) and tail.endswith(b"\0\0"):
        return False
    comment = tail[-_COMMENT:]
    if not (comment.startswith(_MARK) and tail[: -_COMMENT - 2].startswith(_END)):
        raise CheckpointError(
            f"truncated or damaged: its {size} bytes do not end as a PyTorch file does"
        )
    file.seek(0)
    digest, left = hashlib.sha256(), size - _COMMENT
    while left:
        block = file.read(min(left, 1 << 20))
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != comment[len(_MARK) :]:
        raise CheckpointError("damaged: its bytes do not match the checksum it carries")
    return True


def _check_records(archive: zipfile.ZipFile, size: int) -> None:
    entries = {entry.filename: entry for entry in archive.infolist()}
    names = {name.lower() for name in entries}
    if len(names) < len(archive.infolist()) or min(e.header_offset for e in entries.values()):
        raise CheckpointError("damaged: an archive in which one name stands for two records")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"record {entry.filename!r} is compressed, {entry.compress_size} bytes for"
                f" {entry.file_size}; PyTorch stores records as they are, and only those are read"
            )
    total = sum(entry.file_size for entry in archive.infolist())
    if total > size:
        raise CheckpointError(f"its records state {total} bytes, more than the file's {size}")
    pickled = [name for name in entries if name.endswith("data.pkl")]
    if len(pickled) != 1:
        raise CheckpointError("not a readable PyTorch file (it has no data.pkl)")
    folder = pickled[0].removesuffix("data.pkl")
    stored = {
        name.removeprefix(f"{folder}data/"): entry.file_size for name, entry in entries.items()
    }
    for name, entry in entries.items():
        if name.endswith(".pkl") and entry.file_size > MAX_PICKLE:
            raise _too_long(entry.file_size)
    walk = _Walk(io.BytesIO(archive.read(pickled[0])))
    walk.run()
    for key, needed in walk.storages.items():
        if stored.get(key, -1) < needed:
            raise CheckpointError(f"truncated or damaged: tensor record {key!r} is not whole")


def _check_legacy(file: io.BufferedReader, size: int) -> None:
    """Magic number, protocol, system, object and keys, a pickle each; then the numbers."""
    head = file.read(MAX_PICKLE)
    stream = io.BytesIO(head)
    storages: dict[str, int] = {}
    for part in range(5):
        walk = _Walk(stream)
        found = walk.run(cut=len(head) < size)
        storages |= walk.storages
        if part == 0 and found != _MAGIC:
            raise CheckpointError("not a readable PyTorch file (no magic number)")
    needed = stream.tell() + sum(storages.values())
    if needed > size:
        raise CheckpointError(f"truncated or damaged: {size} of at least {needed} bytes")


def _too_long(size: int) -> CheckpointError:
    return CheckpointError(
        f"its list of tensors takes {size} bytes or more; at most {MAX_PICKLE} are read"
    )


class _Tensor:
    """Stands for a tensor."""


class _Walk(pickle._Unpickler):  # the one in C trusts the memo's numbers, and takes room for them
    """Follows a pickle of plain data and tensors without making the tensors."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")
        self._stream = stream
        self.storages: dict[str, int] = {}
        """Key -> bytes of a storage."""
        self._copied = 0

    def run(self, cut: bool = False) -> object:
        """What the pickle holds. `cut`: the stream is only the beginning of the file."""
        try:
            return self.load()
        except CheckpointError:
            raise
        except Exception as error:  # damaged pickles raise nearly anything
            if cut and self._stream.read(1) == b"":
                raise _too_long(self._stream.tell()) from None
            reason = str(error).split("\n")[0] or type(error).__name__
            raise CheckpointError(f"not a readable PyTorch file ({reason})") from None

    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if module == "torch" and name in _ITEM_SIZES:
            return _Storage(_ITEM_SIZES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in _CALLS:
            raise CheckpointError(
                "not a checkpoint of plain tensors; nothing in it was executed"
                f" (it asks for {full})"
            )
        return _Call(self, full)

    def persistent_load(self, pid: Any) -> _Tensor:
        kind, storage, key, _device, count, *_view = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not 0 <= count < 1 << 60:
            raise ValueError("a reference to something that is no tensor")
        self.storages[str(key)] = count * storage.item_size
        return _Tensor()

    def copying(self, count: int) -> None:
        """Refuse what makes much of little by copying it many times."""
        self._copied += count
        if self._copied > _MAX_COPIED:
            raise CheckpointError(f"it would copy more than {_MAX_COPIED} items")

    def _refuse(self) -> NoReturn:
        raise ValueError("it makes objects of other classes")

    def _build(self) -> None:
        state = self.stack.pop()  # attributes of a state_dict: the versions of its layers
        if not isinstance(self.stack[-1], OrderedDict) or not isinstance(state, dict):
            self._refuse()

    def _set_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        pickle._Unpickler.load_setitem(self)

    def _set_items(self) -> None:
        self._check_keys(self.stack[::2])
        pickle._Unpickler.load_setitems(self)

    def _check_keys(self, keys: list[object]) -> None:
        # to hash tuples within tuples takes the stack of the process
        if not all(isinstance(key, (str, int, float, bytes, type(None))) for key in keys):
            raise ValueError("a key that is neither text nor a number")

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    for _code in (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST,
                  pickle.FROZENSET, pickle.ADDITEMS, pickle.DICT):  # fmt: skip
        dispatch[_code[0]] = _refuse


@dataclass(frozen=True)
class _Storage:
    """Stands for a class of storages."""

    item_size: int


class _Call:
    """Stands for a function that a pickle of plain data may call."""

    def __init__(self, walk: _Walk, name: str) -> None:
        self._walk, self._name = walk, name

    def __call__(self, *arguments: Any) -> object:
        self._walk.copying(sum(len(a) for a in arguments if hasattr(a, "__len__")))
        return _CALLS[self._name](*arguments)


def _ordered(pairs: object = ()) -> OrderedDict:
    if len(pairs):
        raise ValueError("a dict made of a list")
    return OrderedDict()


def _bytes(text: object = "", encoding: str = "latin1") -> bytes:
    if not isinstance(text, (str, bytes)) or encoding != "latin1":
        raise ValueError("bytes that are not made of text")
    return text.encode("latin1") if isinstance(text, str) else text


def _stand_in(*_: object) -> _Tensor:
    return _Tensor()


_ITEM_SIZES = {
    "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "UntypedStorage": 1, "ShortStorage": 2,
    "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8,
    "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt8Storage": 1,
    "QUInt8Storage": 1, "QInt32Storage": 4,
}  # fmt: skip
_CALLS = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _bytes,
    "__builtin__.bytearray": _bytes,
    "builtins.bytearray": _bytes,
    "torch.Size": tuple,
    "torch.device": _stand_in,
    "torch.serialization._get_layout": _stand_in,
    "torch.nn.parameter.Parameter": _stand_in,
    "torch._utils._rebuild_tensor": _stand_in,
    "torch._utils._rebuild_tensor_v2": _stand_in,
    "torch._utils._rebuild_parameter": _stand_in,
    "torch._utils._rebuild_parameter_with_state": _stand_in,
    "torch._utils._rebuild_qtensor": _stand_in,
    "torch._utils._rebuild_sparse_tensor": _stand_in,
}
