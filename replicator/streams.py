"""The streams of a packed shipment: small numbers and bytes of one sort each, compressed. Pure.

Duty: what is alike stands together, so that a compressor sees it as such. `Writer` collects,
`pack` makes bytes of all streams, `unpack` gives a `Reader` of each. Every size is bounded before
anything is allocated; whatever is wrong ends in BadShipment. Any thread; the objects belong to one.

Packed: for each stream of `NAMES` the varint of its raw bytes and, if there are any, that of
`stored bytes × 4 + codec`; then the stored bytes of all of them. Varints are LEB128; signed numbers
are zigzag-coded (both as in Protocol Buffers' encoding page).
"""

from __future__ import annotations

import lzma
from typing import Final, NamedTuple

import zstandard

from replicator.errors import BadShipment

NAMES: Final = (
    "symbols", "new_symbols", "values", "times_low", "times_high", "times_rest",
    "modes", "references", "runs", "moves", "small", "literals",
)  # fmt: skip
"""What there is of each, in this order:

symbols, new_symbols, values          op metadata (`columns`)
times_low, times_high, times_rest     steps of time between ops (`columns`)
modes, references                     how each piece of payload is made, from what (`pieces`)
runs, moves                           where it differs, by place; by a change of place (`delta`)
small                                 changed bytes, as differences; few together
literals                              bytes as they are
"""

RAW, ZSTD, LZMA = 0, 1, 2

MAX_LZMA_BYTES: Final = 256 << 10
"""Streams up to this size are tried with LZMA too, which does better on little, but slowly."""

MAX_WINDOW_BYTES: Final = 8 << 20
"""How far back a compressed stream may refer to itself: bounds the receiver's memory."""

_LZMA_FILTERS: Final = [
    {"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 0, "pb": 0, "dict_size": MAX_LZMA_BYTES, "preset": 6}
]
_VARINT_BITS: Final = 70
_ZSTD_MAGIC: Final = zstandard.FRAME_HEADER


class Level(NamedTuple):
    """How hard to compress. `small` and `large` are zstd's levels for little and much."""

    small: int
    large: int
    lzma: bool


def zigzag(number: int) -> int:
    """A signed number as an unsigned one: 0, -1, 1, -2 ... become 0, 1, 2, 3 ..."""
    return number << 1 if number >= 0 else (-number << 1) - 1


def unzigzag(number: int) -> int:
    """The other way."""
    return -(number + 1 >> 1) if number & 1 else number >> 1


def put(out: bytearray, number: int) -> None:
    """Append the varint of a number, which is not negative."""
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


class Reader:
    """One stream, read from its start. BadShipment when it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next byte."""
        at = self._at
        if at >= len(self._data):
            raise BadShipment("a stream of the shipment ends too early")
        self._at = at + 1
        return self._data[at]

    def number(self) -> int:
        """The next varint, below 2^70."""
        found = shift = 0
        while True:
            byte = self.byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
            if shift >= _VARINT_BITS:
                raise BadShipment("a number in the shipment is too large")

    def signed(self) -> int:
        """The next zigzag-coded varint."""
        return unzigzag(self.number())

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        stop = self._at + count
        if stop > len(self._data):
            raise BadShipment("a stream of the shipment ends too early")
        piece = self._data[self._at : stop]
        self._at = stop
        return piece

    @property
    def exhausted(self) -> bool:
        """Everything was read."""
        return self._at == len(self._data)


class Writer:
    """The streams of a shipment in the making: a bytearray of each name."""

    def __init__(self) -> None:
        self.streams = {name: bytearray() for name in NAMES}

    def __getitem__(self, name: str) -> bytearray:
        return self.streams[name]

    def pack(self, level: Level) -> bytes:
        """All of them, compressed."""
        head = bytearray()
        bodies = []
        for name in NAMES:
            raw = bytes(self.streams[name])
            put(head, len(raw))
            if raw:
                codec, stored = _compress(raw, level)
                put(head, len(stored) << 2 | codec)
                bodies.append(stored)
        return b"".join([bytes(head), *bodies])


def sizes(packed: bytes) -> dict[str, tuple[int, int]]:
    """Raw and stored bytes of each stream, for measurements."""
    entries, _ = _directory(packed)
    return {name: (raw, stored) for name, (raw, stored, _) in zip(NAMES, entries, strict=True)}


def unpack(packed: bytes, max_bytes: int) -> dict[str, Reader]:
    """The streams of packed bytes; together they have `max_bytes` at the most. BadShipment."""
    entries, at = _directory(packed)
    if sum(raw for raw, _, _ in entries) > max_bytes:
        raise BadShipment("the shipment's streams are larger than what they stand for")
    found = {}
    for name, (raw, stored, codec) in zip(NAMES, entries, strict=True):
        found[name] = Reader(_decompress(packed[at : at + stored], codec, raw))
        at += stored
    if at != len(packed):
        raise BadShipment("the shipment's streams do not add up to its size")
    return found


def _directory(packed: bytes) -> tuple[list[tuple[int, int, int]], int]:
    """(raw bytes, stored bytes, codec) of each stream, and where the first one is stored."""
    reader = Reader(packed)
    entries = []
    for _ in NAMES:
        raw = reader.number()
        stored = reader.number() if raw else 0
        entries.append((raw, stored >> 2, stored & 3))
    return entries, reader._at


def _compress(raw: bytes, level: Level) -> tuple[int, bytes]:
    """The codec that makes the least of it, and what it makes."""
    small = len(raw) <= MAX_LZMA_BYTES
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level.small if small else level.large,
        source_size=len(raw),
        window_log=min(max(len(raw).bit_length(), 10), MAX_WINDOW_BYTES.bit_length() - 1),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
    )
    found = [(RAW, raw)]
    found.append((ZSTD, zstandard.ZstdCompressor(compression_params=parameters).compress(raw)))
    if level.lzma and small:
        found.append((LZMA, lzma.compress(raw, lzma.FORMAT_RAW, filters=_LZMA_FILTERS)))
    return min(found, key=lambda entry: len(entry[1]))


def _decompress(stored: bytes, codec: int, raw_bytes: int) -> bytes:
    """To exactly `raw_bytes`; no more than that is ever allocated."""
    if not raw_bytes:
        return b""
    try:
        raw = _DECOMPRESSORS[codec](stored, raw_bytes)
    except (zstandard.ZstdError, lzma.LZMAError, EOFError, KeyError) as error:
        raise BadShipment(f"a stream of the shipment is damaged: {error}") from error
    if len(raw) != raw_bytes:
        raise BadShipment("a stream of the shipment has another size than was said")
    return raw


def _from_zstd(stored: bytes, raw_bytes: int) -> bytes:
    # zstandard allocates what a frame announces, whatever bound it is given. Ours announce nothing.
    if zstandard.frame_content_size(_ZSTD_MAGIC + stored[:18]) != -1:
        raise BadShipment("a stream of the shipment is not what its sender makes")
    decompressor = zstandard.ZstdDecompressor(
        max_window_size=MAX_WINDOW_BYTES, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    return decompressor.decompress(stored, max_output_size=raw_bytes, allow_extra_data=False)


def _from_lzma(stored: bytes, raw_bytes: int) -> bytes:
    # Between 0 and the few bytes of an end mark follow; what they are does not matter.
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
    return decompressor.decompress(stored, raw_bytes)


def _as_it_is(stored: bytes, _raw_bytes: int) -> bytes:
    return stored


_DECOMPRESSORS: Final = {RAW: _as_it_is, ZSTD: _from_zstd, LZMA: _from_lzma}
