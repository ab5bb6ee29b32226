"""What a drive does at which block size, measured on a blank cartridge.

Duty: times of one drive and its changer, and a block size to choose. It writes only on a cartridge
that is blank through and through, and leaves it as good as blank: an empty file. Blocking calls,
one thread; the clock is injected.

A rate counts the synchronous filemark, without which the drive's buffer would be measured. What is
written can't be compressed, since drives compress.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tape.changer import Changer
from tape.drive import Drive
from tape.errors import (
    BadCartridge,
    BadSettings,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    MediaError,
    NotReady,
)
from tape.layout import DEFAULT_BLOCK_BYTES

SIZES: Final = tuple(1 << power for power in range(16, 21))
"""64 KiB to 1 MiB."""
DEFAULT_BYTES: Final = 2 << 30
"""To write with each block size: several times what drives buffer."""
_NOISE_BYTES: Final = 8 << 20
_AS_GOOD: Final = 0.97
"""A rate of so much of the best one is not worth a larger block."""
_MARKS: Final = 8
_POLL_S: Final = 2.0

Say = Callable[[str], None]


class Rate(NamedTuple):
    """Of one block size."""

    block_bytes: int
    written_bytes: int
    write_s: float
    read_s: float

    @property
    def write_bps(self) -> float:
        """Bytes per second onto the medium."""
        return self.written_bytes / self.write_s

    @property
    def read_bps(self) -> float:
        """Bytes per second from it."""
        return self.written_bytes / self.read_s


@dataclass(frozen=True)
class Calibration:
    """What was measured."""

    drive: str
    load_s: float
    """Until the cartridge could be used."""
    rates: tuple[Rate, ...]
    """By block size; sizes that the drive refuses are left out."""
    filemark_s: float
    """A synchronous one behind a small file."""
    find_s: float
    """From the end to a file in the middle."""
    back_s: float
    """From the end to the beginning of the last file, as when it is read back."""

    @property
    def block_bytes(self) -> int:
        """The size to take: the usual one where it is as good as any, else the smallest such."""
        best = max(rate.write_bps for rate in self.rates)
        good = [rate.block_bytes for rate in self.rates if rate.write_bps >= _AS_GOOD * best]
        return DEFAULT_BLOCK_BYTES if DEFAULT_BLOCK_BYTES in good else min(good)


def load(
    changer: Changer,
    drive: Drive,
    slot: int,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    say: Say = lambda _words: None,
) -> float:
    """Put a cartridge into the drive and wait until it is open; returns seconds.

    However long that is: a new LTO-9 cartridge takes up to two hours. NotReady when the drive has
    lost it; ChangerJam.
    """
    start, told = clock(), ""
    changer.load(slot, drive.number)
    while True:
        try:
            drive.open()
        except NotReady as error:
            status = drive.status()
            if not status.busy and not status.loaded:
                raise
            if str(error) != told:
                told = str(error)
                say(told)
            pause(_POLL_S)
        else:
            return clock() - start


def calibrate(
    drive: Drive,
    load_s: float,
    *,
    sizes: Sequence[int] = SIZES,
    bytes_each: int = DEFAULT_BYTES,
    clock: Callable[[], float] = time.monotonic,
    say: Say = lambda _words: None,
) -> Calibration:
    """Measure an open drive. BadCartridge unless its cartridge is blank; what the drive raises."""
    check_blank(drive)
    noise = memoryview(os.urandom(_NOISE_BYTES) * 2)
    try:
        rates = _rates(drive, sizes, bytes_each, noise, clock, say)
        filemark_s = _filemarks(drive, noise, clock)
        find_s, back_s = _searches(drive, noise, clock)
    finally:
        # Not erased, which takes hours: one filemark, and nothing behind it.
        drive.rewind()
        drive.write_filemark()
        drive.rewind()
    if not rates:
        raise BadSettings(f"{drive.name} takes blocks of none of the sizes {list(sizes)}")
    return Calibration(drive.name, load_s, rates, filemark_s, find_s, back_s)


def check_blank(drive: Drive) -> None:
    """Nothing at all may be on the cartridge but an empty file. BadCartridge."""
    drive.rewind()
    try:
        if drive.read_block() == b"":
            drive.read_block()
    except EndOfData:
        drive.rewind()
        return
    drive.rewind()
    raise BadCartridge(
        f"the cartridge in {drive.name} is not blank: nothing was written on it",
        hint="put in a new one; cdpfs tape inventory shows what the others hold",
    )


def _rates(
    drive: Drive,
    sizes: Sequence[int],
    bytes_each: int,
    noise: memoryview,
    clock: Callable[[], float],
    say: Say,
) -> tuple[Rate, ...]:
    rates = []
    for size in sizes:
        if size > drive.max_block_bytes:
            continue
        try:
            rate = _rate(drive, size, max(1, bytes_each // size), noise, clock)
        except BadSettings as error:
            say(f"{size >> 10} KiB: {error}")
            continue
        if rate is None:
            continue
        rates.append(rate)
        say(
            f"{size >> 10} KiB: written at {rate.write_bps / 1e6:.1f} MB/s, "
            f"read at {rate.read_bps / 1e6:.1f} MB/s"
        )
    return tuple(rates)


def _rate(
    drive: Drive, size: int, blocks: int, noise: memoryview, clock: Callable[[], float]
) -> Rate | None:
    """None when not even one block went onto the medium."""
    drive.rewind()
    start, written = clock(), 0
    try:
        for number in range(blocks):
            drive.write_block(_block(noise, number, size))
            written += 1
    except (EarlyWarning, EndOfMedium):
        pass
    drive.write_filemark()
    write_s = clock() - start
    drive.to_file(0)
    start = clock()
    for number in range(written):
        if drive.read_block() != _block(noise, number, size):
            raise MediaError(f"{drive.name}: a block came back other than it was written")
    read_s = clock() - start
    return Rate(size, written * size, write_s, read_s) if written else None


def _block(noise: memoryview, number: int, size: int) -> memoryview:
    start = number * 4099 % _NOISE_BYTES
    return noise[start : start + size]


def _filemarks(drive: Drive, noise: memoryview, clock: Callable[[], float]) -> float:
    """Seconds per filemark, each behind a block that tells its file."""
    drive.rewind()
    total = 0.0
    for number in range(_MARKS):
        drive.write_block(_block(noise, number, SIZES[0]))
        start = clock()
        drive.write_filemark()
        total += clock() - start
    return total / _MARKS


def _searches(drive: Drive, noise: memoryview, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds to a file in the middle, and back to the last one, over what `_filemarks` left."""
    times = []
    for number in (_MARKS // 2, _MARKS - 1):
        drive.to_end()
        start = clock()
        drive.to_file(number)
        times.append(clock() - start)
        if drive.read_block() != _block(noise, number, SIZES[0]):
            raise MediaError(f"{drive.name}: a search for file {number} ended somewhere else")
    return times[0], times[1]
