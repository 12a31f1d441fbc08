"""Damage to files: bytes anywhere, and inside the parts that checksums and compression hide."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535,
    65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_HEADER = 400  # bytes at the start, where sizes and counts are
_LONGEST_RUN = 64 << 20  # of one byte: compressed, it is small

Mutation = Callable[[random.Random, bytes], bytes]


def _place(rng: random.Random, data: bytes) -> int:
    """Where to damage: half of the time in the header."""
    end = len(data) if rng.random() < 0.5 else min(len(data), _HEADER)
    return rng.randrange(end) if end else 0


def _replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return _replaced(data, at, bytes([data[at] ^ 1 << rng.randrange(8)])) if data else data


def set_bytes(rng: random.Random, data: bytes) -> bytes:
    count = rng.choice([1, 1, 2, 4, 16])
    return _replaced(data, _place(rng, data), rng.randbytes(count))[: len(data)]


def set_number(rng: random.Random, data: bytes) -> bytes:
    width, order = rng.choice([1, 2, 4, 4, 8]), rng.choice(["little", "big"])
    value = rng.choice(NUMBERS) % (1 << 8 * width)
    new = value.to_bytes(width, order)
    return _replaced(data, _place(rng, data), new)[: len(data)]


def set_digits(rng: random.Random, data: bytes) -> bytes:
    """Another number where the file has one in decimal digits."""
    places = [i for i in range(min(len(data), 4000)) if data[i : i + 1].isdigit()]
    if not places:
        return data
    start = end = rng.choice(places)
    while end < len(data) and data[end : end + 1].isdigit():
        end += 1
    return data[:start] + str(rng.choice((-1, *NUMBERS))).encode() + data[end:]


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice([1, 2, 4, 16, 100]) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    part = data[at : at + rng.choice([1, 4, 16, 100, 1000])]
    return data[:at] + part * rng.choice([2, 3, 50]) + data[at + len(part) :]


def insert_run(rng: random.Random, data: bytes) -> bytes:
    """A run of one byte, seldom a very long one."""
    return _with_run(
        rng, data, rng.choice([1, 4, 100, 10_000] if rng.random() < 0.97 else [1 << 20])
    )


def _with_run(rng: random.Random, data: bytes, length: int) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([rng.choice([0, 0, 255, ord("["), ord("9")])]) * length + data[at:]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, set_bytes, set_number, set_number, set_digits, truncate, cut_out, repeat, insert_run,
)  # fmt: skip


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to four mutations, sometimes after the end of another sample is put in place."""
    if others and rng.random() < 0.15:
        other = rng.choice(others)
        data = data[: _place(rng, data)] + other[_place(rng, other) :]
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        data = rng.choice(MUTATIONS)(rng, data)
    return data


def mutated_inside(rng: random.Random, data: bytes) -> bytes:
    """`mutated` for what is compressed afterwards: a very long run is small there."""
    if rng.random() < 0.002:
        return _with_run(rng, data, _LONGEST_RUN)
    return mutated(rng, data)


def zip_mutated(rng: random.Random, data: bytes) -> bytes:
    """A ZIP file with a member damaged, and all checksums right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        members = old.infolist()
        victim = rng.randrange(len(members))
        for number, member in enumerate(members):
            content = old.read(member)
            kind = rng.random()
            if number == victim and kind < 0.1:
                continue
            name = member.filename
            if number == victim and kind < 0.2:
                name = rng.choice(["../x", "/x", name + "/x", "x" * 300, name.upper()])
            elif number == victim:
                content = mutated_inside(rng, content)
            packing = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            new.writestr(name, content, packing, compresslevel=1)
    return out.getvalue()


def png_repaired(data: bytes) -> bytes:
    """A PNG file whose checksums are right as far as it has whole chunks."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        out.append(data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(out) + data[at:]


def safetensors_mutated(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with something in its header changed, and the header's length right."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice([1, 1, 2, 3])):
        _change_json(rng, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


_JSON_VALUES = (
    0, -1, 1, 2**31, 2**63, 2**64, 1e300, None, True, "", "F32", "F64", "I8", "BOOL", "BF16", "x",
    [], {}, [0, 0], [1, 2**62], {"a": 1}, [[[]]], "9" * 5000,
)  # fmt: skip


def _change_json(rng: random.Random, tree: object) -> None:
    """Replace, drop or add one value somewhere."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        value = tree[key]
        if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
            tree = value
            continue
        kind = rng.random()
        if kind < 0.1:
            del tree[key]
        elif kind < 0.2 and isinstance(tree, dict):
            tree[f"{key}.{rng.randrange(3)}"] = value
        elif isinstance(value, str) and kind < 0.7:
            tree[key] = _changed_text(rng, value)
        else:
            tree[key] = copy.deepcopy(rng.choice(_JSON_VALUES))
        return


def _changed_text(rng: random.Random, text: str) -> str:
    """JSON within JSON (a network's configuration), or text."""
    try:
        inner = json.loads(text)
    except ValueError:
        inner = None
    if isinstance(inner, dict) and rng.random() < 0.8:
        _change_json(rng, inner)
        return json.dumps(inner)
    if rng.random() < 0.1:
        return rng.choice("[{") * 100_000
    return mutated(rng, text.encode()).decode("latin-1")
