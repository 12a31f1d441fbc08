"""Interleaved range asymmetric numeral systems in plain Python, as docs/format_dxc.md has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

LANES, BITS, LOW = 16, 12, 1 << 16


def plain_encode(
    symbols: Sequence[int], classes: Sequence[int], frequencies: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """The states and the words of a stream."""
    states, words = [LOW] * LANES, []
    for i in reversed(range(len(symbols))):
        row, symbol, state = frequencies[classes[i]], symbols[i], states[i % LANES]
        start, frequency = sum(row[:symbol]), row[symbol]
        if state >= frequency << (32 - BITS):
            words.append(state & 0xFFFF)
            state >>= 16
        states[i % LANES] = (state // frequency << BITS) + state % frequency + start
    return states, words[::-1]


class PlainReader:
    """Reads a stream, symbol after symbol."""

    def __init__(self, states: Sequence[int], words: Sequence[int]) -> None:
        self.states, self.words = list(states), list(words)
        self.place = self.count = 0

    def symbol(self, row: Sequence[int]) -> int:
        """The next symbol, of a class with these frequencies."""
        lane = self.count % LANES
        self.count += 1
        state = self.states[lane]
        part, symbol, start = state & ((1 << BITS) - 1), 0, 0
        while part >= start + row[symbol]:
            start += row[symbol]
            symbol += 1
        state = row[symbol] * (state >> BITS) + part - start
        if state < LOW:
            state = state << 16 | self.words[self.place]
            self.place += 1
        self.states[lane] = state
        return symbol

    @property
    def finished(self) -> bool:
        """Whether the stream is sound to its end."""
        return self.place == len(self.words) and self.states == [LOW] * LANES


def to_bytes(states: Sequence[int], words: Sequence[int]) -> bytes:
    """A stream as the operators have it."""
    return b"".join([state.to_bytes(4, "little") for state in states]) + words_to_bytes(words)


def words_to_bytes(words: Sequence[int]) -> bytes:
    """Words of 16 bits."""
    return b"".join(word.to_bytes(2, "little") for word in words)


def numbers(data: bytes, size: int) -> list[int]:
    """Little-endian whole numbers of ``size`` bytes."""
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


class Bits:
    """The bits of bytes, the lowest of each first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def get(self, count: int) -> int:
        """A number of ``count`` bits, the lowest first."""
        value = 0
        for i in range(count):
            byte, bit = divmod(self.place, 8)
            value |= (self.data[byte] >> bit & 1) << i
            self.place += 1
        return value

    def escape(self) -> int:
        """A number by its Exp-Golomb code of order 2."""
        length = 2
        while not self.get(1):
            length += 1
        folded = (1 << length | self.get(length)) - 4
        return -(folded + 1) // 2 if folded & 1 else folded // 2


Symbols = Callable[[Sequence[int]], int]
