"""Entropy coding: bytes of a plain Python coder, length by the entropy, damaged data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codecs_small import untrained
from plain_rans import PlainReader, numbers, plain_encode, to_bytes

from denoise_ext._loader import native
from denoise_ext.models.coded_prior import CENTRE, OFFSETS, SCALES, SYMBOLS, rounded_prior
from denoise_ext.models.latent_prior import LatentPrior

native()
OPS = torch.ops.denoise_ext


def frequencies(classes: int, symbols: int, seed: int = 0) -> np.ndarray:
    """Random ones, some of 0 and some of nearly all."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(symbols, 0.2), classes)
    found = np.floor(shares * 4096).astype(np.int16)
    found[np.arange(classes), shares.argmax(1)] += 4096 - found.sum(1, dtype=np.int16)
    return found


def drawn(table: np.ndarray, count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Symbols (uint8) by their frequencies, and their classes (int16)."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(table), count)
    bounds = np.cumsum(table.astype(int), axis=1)
    symbols = (rng.integers(0, 4096, (count, 1)) >= bounds[classes]).sum(1)
    return torch.from_numpy(symbols.astype(np.uint8)), torch.from_numpy(classes.astype(np.int16))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
def test_the_bytes_are_those_of_a_plain_coder(isa, count):
    table = frequencies(9, 23)
    symbols, classes = drawn(table, count)
    states, words = plain_encode(symbols.tolist(), classes.tolist(), table.tolist())
    data = OPS.rans_encode(symbols, classes, torch.from_numpy(table))
    assert bytes(data.numpy()) == to_bytes(states, words)
    assert torch.equal(OPS.rans_decode(data, classes, torch.from_numpy(table)), symbols)
    raw = bytes(data.numpy())
    reader = PlainReader(numbers(raw[:64], 4), numbers(raw[64:], 2))
    assert [reader.symbol(table[k].tolist()) for k in classes.tolist()] == symbols.tolist()
    assert reader.finished


def test_the_length_is_within_a_hundredth_of_the_entropy():
    table = frequencies(32, 40)
    symbols, classes = drawn(table, 200_000)
    data = OPS.rans_encode(symbols, classes, torch.from_numpy(table))
    entropy = -np.log2(table[classes, symbols] / 4096).sum() / 8
    assert entropy < len(data) < 1.01 * entropy


def test_against_another_coder():
    """constriction's range coder takes as many bytes for the same models."""
    constriction = pytest.importorskip("constriction")
    table = frequencies(1, 40)
    symbols, classes = drawn(table, 50_000)
    used = table[0] > 0
    model = constriction.stream.model.Categorical(
        table[0][used].astype(np.float64) / 4096, perfect=False
    )
    coder = constriction.stream.stack.AnsCoder()
    order = np.cumsum(used) - 1
    coder.encode_reverse(order[symbols.numpy()].astype(np.int32), model)
    theirs = 4 * len(coder.get_compressed())
    ours = len(OPS.rans_encode(symbols, classes, torch.from_numpy(table)))
    assert abs(ours - theirs) < 0.01 * theirs


def test_damaged_streams_are_errors():
    table = torch.from_numpy(frequencies(9, 23))
    symbols, classes = drawn(table.numpy(), 500)
    data = OPS.rans_encode(symbols, classes, table)
    rng = np.random.default_rng(2)
    for _ in range(200):
        bad = data.clone()
        bad[rng.integers(len(bad))] ^= int(rng.integers(1, 256))
        with pytest.raises(RuntimeError, match="rans_decode: data"):
            OPS.rans_decode(bad, classes, table)
    for bad in (data[:-2].clone(), data[:64].clone(), data[:-1].clone(), data[:10].clone(),
                torch.cat([data, data[:2]])):  # fmt: skip
        with pytest.raises(RuntimeError, match="rans_decode: data"):
            OPS.rans_decode(bad, classes, table)


def test_wrong_arguments_are_named():
    table = torch.from_numpy(frequencies(3, 5))
    symbols, classes = drawn(table.numpy(), 40)
    for arguments, named in (
        ((symbols, classes, table + 1), "frequencies"),
        ((symbols, classes, -table), "frequencies"),
        ((symbols, classes.int(), table), "classes"),
        ((symbols, classes + 3, table), r"classes.*3"),
        ((symbols, classes - 4, table), r"classes.*-"),
        ((symbols + 5, classes, table), "symbols"),
        ((symbols[:-1].clone(), classes, table), "classes"),
        ((symbols[::2], classes[::2].contiguous(), table), "symbols"),
        ((symbols, classes, table[0]), "frequencies"),
    ):
        with pytest.raises(RuntimeError, match=f"rans_encode: {named}"):
            OPS.rans_encode(*arguments)
    never = torch.zeros(1, 2, dtype=torch.int16)
    never[0, 0] = 4096
    with pytest.raises(RuntimeError, match="symbols"):
        OPS.rans_encode(symbols[:1] * 0 + 1, classes[:1] * 0, never)


# ---- latents


@pytest.fixture(scope="module")
def prior():
    """The numbers of an untrained codec at a quality."""
    network = untrained()
    assert isinstance(network.prior, LatentPrior)
    coded = rounded_prior(network.prior)
    return coded, (coded.weights, coded.first_at(40), coded.inside, coded.frequencies)


def latents(rows: int, columns: int, spread: float = 2.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    values = rng.laplace(0, spread, (rows, columns, 32)).round().clip(-32768, 32767)
    return torch.from_numpy(values.astype(np.int16))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (9, 12)])
@pytest.mark.parametrize("spread", [0.05, 2.0, 40.0, 3000.0])
def test_latents_come_back(isa, prior, size, spread):
    given = latents(*size, spread)
    data = OPS.latents_encode(given, *prior[1])
    assert torch.equal(OPS.latents_decode(data, *size, *prior[1]), given)


def test_every_instruction_set_makes_the_same_bytes(prior):
    given, files = latents(6, 9, 10.0), set()
    for name in native().isa_available():
        native().force_isa(name)
        files.add(bytes(OPS.latents_encode(given, *prior[1]).numpy()))
    native().force_isa("")
    assert len(files) == 1


def test_classes_are_those_of_the_model_in_python(prior):
    """The length is that of the classes and symbols which `CodedPrior` finds."""
    coded, numbers_of = prior
    given = latents(12, 10, 1.0)
    kinds, values = coded.classes(given.permute(2, 0, 1), 40)
    symbols = torch.where(values.abs() <= CENTRE, values + CENTRE, SYMBOLS - 1)
    likely = coded.frequencies[kinds, symbols].double()
    escaped = likely == 0
    likely[escaped] = coded.frequencies[kinds[escaped], SYMBOLS - 1].double()
    entropy = -(likely / 4096).log2().sum().item() / 8
    data = OPS.latents_encode(given, *numbers_of)
    escaped |= symbols == SYMBOLS - 1
    folded = torch.where(values < 0, -2 * values - 1, 2 * values)[escaped]
    bits = sum(2 * (int(number) + 4).bit_length() - 3 for number in folded)  # Exp-Golomb, order 2
    rest = len(data) - 4 - -(-bits // 8)
    # 16 states of 32 bits, half of which is information; 4 frequencies more or less
    assert abs(rest - 32 - entropy) < 0.01 * entropy + 16


def test_damaged_latents_are_errors_or_other_numbers(prior):
    given = latents(8, 8)
    data = OPS.latents_encode(given, *prior[1])
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        bad = data.clone()
        bad[rng.integers(len(bad))] ^= int(rng.integers(1, 256))
        try:
            OPS.latents_decode(bad, 8, 8, *prior[1])
        except RuntimeError as error:
            assert "latents_decode: data" in str(error)
            refused += 1
    assert refused > 290  # what is left are changed escapes: checksums find them
    for bad in (data[:67].clone(), data[:100].clone(), torch.zeros(0, dtype=torch.uint8),
                torch.full((500,), 255, dtype=torch.uint8)):  # fmt: skip
        with pytest.raises(RuntimeError, match="latents_decode: data"):
            OPS.latents_decode(bad, 8, 8, *prior[1])


def test_a_model_that_could_overflow_is_refused(prior):
    weights, first, inside, table = prior[1]
    large = torch.full_like(weights, 32767)
    given = latents(2, 2)
    assert 5 * 32 * 127 * 32767 < 2**31  # this many channels cannot
    OPS.latents_encode(given, large, first, inside, table)
    with pytest.raises(RuntimeError, match="weights"):
        OPS.latents_encode(given, large, torch.full_like(first, 2**31 - 1), inside, table)
    many = torch.full((5, 128, 256), 32767, dtype=torch.int16)
    with pytest.raises(RuntimeError, match="weights"):
        OPS.latents_encode(
            torch.zeros(2, 2, 128, dtype=torch.int16), many,
            torch.zeros(256, dtype=torch.int32), torch.zeros(4, 256, dtype=torch.int32), table,
        )  # fmt: skip
    for arguments, named in (
        ((weights[:, :24, :48].contiguous(), first[:48], inside[:, :48].contiguous(), table),
         "weights"),
        ((weights, first[:-1], inside, table), "first"),
        ((weights, first, inside[:3], table), "inside"),
        ((weights, first, inside, table[:-1]), "frequencies"),
        ((weights, first.short(), inside, table), "first"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"latents_encode: {named}"):
            OPS.latents_encode(given, *arguments)
    data = OPS.latents_encode(given, weights, first, inside, table)
    for size in ((0, 2), (2, 0), (5000, 2)):
        with pytest.raises(RuntimeError, match="rows and columns"):
            OPS.latents_decode(data, *size, weights, first, inside, table)
    assert table.shape == (OFFSETS * SCALES, SYMBOLS)
