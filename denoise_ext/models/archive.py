"""Check a PyTorch file before PyTorch reads it: it must be whole, plain data, and of bounded size.

`torch.load(weights_only=True)` runs no code of the file, but does not bound memory and time.
Examples are a record that inflates a thousandfold, a pickle that copies a list again and again, and
a truncated file. Here the pickles are first read with placeholders for tensors.

Layouts: PyTorch's `torch/serialization.py`; PKWARE's APPNOTE.TXT 6.3, section 4.3, for ZIP.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from denoise_ext.models.recognise import CheckpointError

MAX_PICKLE = 1 << 22
"""Most bytes of a file's pickles: 4 MiB, some 20 000 tensors. An object of them takes up to 72."""
_MAX_COPIED = 1 << 20  # calls in a pickle, and items that they copy, in all
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
        raise CheckpointError("damaged: an archive with two records of one name")
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


def _not_plain(found: str) -> CheckpointError:
    return CheckpointError(
        f"not a checkpoint of plain tensors; nothing in it was executed (it names {found})"
    )


class _Tensor:
    """A placeholder for a tensor."""


class _Walk(pickle._Unpickler):  # the one in C takes as much memory as the memo's numbers state
    """Follows a pickle of plain data and tensors without making the tensors.

    Opcodes are those that `torch/_weights_only_unpickler.py` reads, but for NEWOBJ, which makes
    objects of classes. Each of them takes time and memory in proportion to its own bytes.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID,
            pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.BININT, pickle.BININT1,
            pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE,
            pickle.SHORT_BINSTRING, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT,
            pickle.EMPTY_SET, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
            pickle.APPEND, pickle.APPENDS, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET,
            pickle.LONG_BINGET,
        )
    }  # fmt: skip

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
            if isinstance(error, KeyError):
                raise _not_plain(f"opcode {error}") from None
            if cut and self._stream.read(1) == b"":
                raise _too_long(self._stream.tell()) from None
            reason = str(error).split("\n")[0] or type(error).__name__
            raise CheckpointError(f"not a readable PyTorch file ({reason})") from None

    def find_class(self, module: str, name: str) -> object:
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if module in ("torch", "torch.cuda", "torch.storage") and name in _ITEM_SIZES:
            return _Storage(_ITEM_SIZES[name])
        if module == "torch" and isinstance(vars(torch).get(name), (torch.dtype, torch.qscheme)):
            return getattr(torch, name)
        if full not in _CALLS and full != _TENSOR:
            raise _not_plain(full)
        return _Global(full)

    def persistent_load(self, pid: Any) -> _Tensor:
        if type(pid) is not tuple or len(pid) not in (5, 6):  # with a view in files before 1.6
            raise ValueError("a reference to something that is no tensor")
        kind, storage, key, _device, count = pid[:5]
        if not (
            kind == "storage"
            and isinstance(storage, _Storage)
            and isinstance(key, (str, int))
            and isinstance(count, int)
            and 0 <= count < 1 << 60
        ):
            raise ValueError("a reference to something that is no tensor")
        size = count * storage.item_size
        self.storages[str(key)] = max(size, self.storages.get(str(key), 0))
        return _Tensor()

    def copying(self, count: int) -> None:
        """Refuse what makes much of little by copying it many times."""
        self._copied += count
        if self._copied > _MAX_COPIED:
            raise CheckpointError(f"it would copy more than {_MAX_COPIED} items")

    if TYPE_CHECKING:  # of the unpickler in Python, which typeshed takes for the one in C
        stack: list[Any]
        metastack: list[list[Any]]

        def load_setitem(self) -> None: ...
        def load_setitems(self) -> None: ...

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        self.copying(1 + len(arguments))
        for level in (arguments, *(a for a in arguments if isinstance(a, tuple))):
            self.copying(sum(len(item) for item in level if hasattr(item, "__len__")))
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        state = self.stack.pop()  # attributes of a state_dict: the versions of its layers
        if not isinstance(self.stack[-1], OrderedDict) or not isinstance(state, dict):
            raise ValueError("it makes objects of other classes")
        self.copying(1 + len(state))

    def _set_item(self) -> None:
        self._check_target(self.stack[-3], self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._check_target(self.metastack[-1][-1], self.stack[::2])
        self.load_setitems()

    @staticmethod
    def _check_target(target: object, keys: list[object]) -> None:
        if not isinstance(target, dict):
            raise ValueError("a key of something that is no dict")
        _check_keys(keys)

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items


def _check_keys(keys: Iterable[object]) -> None:
    # to hash tuples within tuples takes the stack of the process; integers of one remainder share
    # a hash, and to find each among all others takes hours
    modulus = sys.hash_info.modulus
    for key in keys:
        if not isinstance(key, (str, int, float, bytes, type(None))):
            raise ValueError("a key that is neither text nor a number")
        if isinstance(key, int) and not -modulus < key < modulus:
            raise ValueError(f"a key of {key.bit_length()} bits")


@dataclass(frozen=True)
class _Storage:
    """A placeholder for a class of storages."""

    item_size: int


@dataclass(frozen=True)
class _Global:
    """A placeholder for a function or class that a pickle of plain data may name."""

    name: str

    def __call__(self, *arguments: Any) -> object:
        if self.name not in _CALLS:
            raise ValueError(f"it calls {self.name}")
        return _CALLS[self.name](*arguments)


def _ordered(pairs: object = ()) -> OrderedDict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise ValueError("an OrderedDict that is not made of pairs")
    _check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _counter(counts: object = None) -> Counter[Any]:
    if not isinstance(counts, (dict, type(None))):
        raise ValueError("a Counter that is not made of a dict")
    return Counter(counts)


def _set(items: object = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise ValueError("a set that is not made of a list")
    _check_keys(items)
    return set(items)


def _complex(real: object = 0.0, imag: object = 0.0) -> complex:
    if not (isinstance(real, (int, float)) and isinstance(imag, (int, float))):
        raise ValueError("a complex number that is not made of two numbers")
    return complex(real, imag)


def _bytes(text: object = "", encoding: str = "latin1") -> bytes:
    if not isinstance(text, (str, bytes)) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes that are not made of text")
    return text.encode("latin1") if isinstance(text, str) else text


def _stand_in(*_: object) -> _Tensor:
    return _Tensor()


def _of_type(rebuild: object, kind: object, *arguments: object) -> _Tensor:
    if not isinstance(rebuild, _Global) or "._rebuild_tensor" not in rebuild.name:
        raise ValueError("a tensor made by something that makes no tensors")
    if kind not in (_Global(_TENSOR), _Global(_PARAMETER)):
        raise ValueError("a tensor of a class of its own")
    return _stand_in(*arguments)


_TENSOR, _PARAMETER = "torch.Tensor", "torch.nn.parameter.Parameter"
_ITEM_SIZES = {
    "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "UntypedStorage": 1, "ShortStorage": 2,
    "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8,
    "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt8Storage": 1,
    "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1,
}  # fmt: skip
# without torch's functions that make numbers of their own: copies to a device, nested tensors
_CALLS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
    "torch.Size": tuple,
    "torch.device": _stand_in,
    "torch.serialization._get_layout": _stand_in,
    _PARAMETER: _stand_in,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_tensor": _stand_in,
    "torch._utils._rebuild_tensor_v2": _stand_in,
    "torch._utils._rebuild_tensor_v3": _stand_in,
    "torch._utils._rebuild_parameter": _stand_in,
    "torch._utils._rebuild_parameter_with_state": _stand_in,
    "torch._utils._rebuild_qtensor": _stand_in,
    "torch._utils._rebuild_sparse_tensor": _stand_in,
}
