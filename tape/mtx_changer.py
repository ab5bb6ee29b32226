"""A real changer, through any program with the well-known mtx-changer contract.

Duty: the laws of `tape.changer` over such a program; cdpfs ships one over `mtx`
(packaging/tape/mtx-changer). One thread at a time. The contract:

    PROGRAM CHANGER COMMAND SLOT DEVICE DRIVE      exit code 0, or else it didn't work

    load SLOT DEVICE DRIVE      put the cartridge of a slot into a drive
    unload SLOT DEVICE DRIVE    and back into a slot
    transfer SLOT SLOT          from slot to slot
    listall                     a line per element: D:0:E, D:0:F:SLOT:BARCODE (SLOT: where it came
                                from, if that is known), S:1:E, S:1:F:BARCODE, and I: like S: for
                                import/export slots
    loaded SLOT DEVICE DRIVE    the slot that the cartridge of a drive came from, 0 for none
    list, slots                 SLOT:BARCODE of each full slot; how many slots there are

Of these load, unload, transfer and listall are used here. Slots count from 1, import/export slots
go on behind them, drives count from 0. `inventory`, which has the robot look again, is an addition:
a program that doesn't know it is asked for listall all the same.

What the program prints is not believed unless all of it makes sense; it is stopped when it takes
too long, and then what it did is found out by listall.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tape.changer import Element, Inventory
from tape.errors import ChangerJam
from tape.layout import Barcode

LIST_S: Final = 600
"""A large library that was just switched on takes minutes before it answers."""
MOVE_S: Final = 1800
RESCAN_S: Final = 7200
MOST_BYTES: Final = 1 << 20
"""Of what the program prints."""
MOST_ELEMENTS: Final = 20_000

_LINE: Final = re.compile(
    r"(?:D:(?P<drive>\d{1,5}):(?:E(?::.*)?|F:(?P<origin>\d{0,5}):(?P<held>.*))"
    r"|(?P<kind>[SI]):(?P<slot>\d{1,5}):(?:E(?::.*)?|F:(?P<barcode>.*)))"
)


class _Place(NamedTuple):
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"

    def of(self, inventory: Inventory) -> Element:
        """How it is. ChangerJam when there is no such place."""
        places = inventory.drives if self.kind == "drive" else inventory.slots + inventory.doors
        for element in places:
            if element.number == self.number:
                return element
        raise ChangerJam(f"there is no {self}")


class MtxChanger:
    """See `tape.changer.Changer`."""

    def __init__(
        self, program: str, changer: str, devices: Sequence[str], *, move_s: float = MOVE_S
    ) -> None:
        """`devices`: of the drives, by number. `move_s`: how long the robot may take."""
        self._program = program
        self._changer = changer
        self._devices = tuple(devices)
        self._move_s = move_s

    @property
    def name(self) -> str:
        """See `Changer.name`."""
        return self._changer

    def inventory(self, rescan: bool = False) -> Inventory:
        """See `Changer.inventory`."""
        if rescan:
            # Not part of the contract: if it fails, listall tells what the changer knows.
            with contextlib.suppress(ChangerJam):
                self._run(RESCAN_S, "inventory", "0", self._device(0), "0")
        return parse_listall(self._run(LIST_S, "listall", "0", self._device(0), "0"))

    def load(self, slot: int, drive: int) -> None:
        """See `Changer.load`."""
        words = ("load", str(slot), self._device(drive), str(drive))
        self._move(words, _Place("slot", slot), _Place("drive", drive))

    def unload(self, drive: int, slot: int) -> None:
        """See `Changer.unload`."""
        words = ("unload", str(slot), self._device(drive), str(drive))
        self._move(words, _Place("drive", drive), _Place("slot", slot))

    def transfer(self, source: int, target: int) -> None:
        """See `Changer.transfer`."""
        words = ("transfer", str(source), str(target), "0")
        self._move(words, _Place("slot", source), _Place("slot", target))

    def _device(self, drive: int) -> str:
        return self._devices[drive] if drive < len(self._devices) else "none"

    def _move(self, words: tuple[str, ...], source: _Place, target: _Place) -> None:
        before = self.inventory()
        moved = source.of(before)
        if not moved.full:
            raise ChangerJam(f"{self._changer}: {source} is empty")
        if target.of(before).full:
            raise ChangerJam(f"{self._changer}: {target} is taken ({target.of(before).barcode})")
        try:
            self._run(self._move_s, *words)
        except ChangerJam as jam:
            # Stopped or interrupted on the way, it may have been done all the same.
            try:
                after = self.inventory()
            except ChangerJam:
                raise jam from None
            there = target.of(after)
            if source.of(after).full or not there.full or there.barcode != moved.barcode:
                raise

    # --- the program ---

    def _run(self, limit_s: float, *words: str) -> str:
        doing = f"{self._changer}: {words[0]}"
        try:
            process = subprocess.Popen(
                [self._program, self._changer, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            raise ChangerJam(
                f"{doing}: {self._program}: {error.strerror}",
                hint="library.toml names the changer program; cdpfs ships one over mtx",
            ) from error
        try:
            said = _read(process, limit_s)
        finally:
            _stop(process)
        if said is None:
            raise ChangerJam(
                f"{doing}: not done after {limit_s:.0f} s, or it would not stop talking"
            )
        text = said.decode("ascii", "replace")
        if process.returncode != 0:
            told = " ".join(text.split())[:400] or "it said nothing"
            raise ChangerJam(f"{doing} {' '.join(words[1:])}: {told} (exit {process.returncode})")
        return text


def _read(process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
    """All that it prints until it ends; None when that is too much or takes too long."""
    assert process.stdout is not None
    until = time.monotonic() + limit_s
    said = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(said) <= MOST_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            got = os.read(process.stdout.fileno(), 1 << 16)
            if not got:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
                    return bytes(said)
                return None
            said += got
    return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it and what it has started; what waits in the kernel for the robot ends later."""
    assert process.stdout is not None
    process.stdout.close()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


# --- what it says ---


def parse_listall(text: str) -> Inventory:
    """Everything that is in the library. ChangerJam when any of it makes no sense."""
    drives: list[Element] = []
    slots: list[Element] = []
    doors: list[Element] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = _LINE.fullmatch(line)
        if found is None or len(drives) + len(slots) + len(doors) >= MOST_ELEMENTS:
            raise ChangerJam(f"listall: not understood: {line[:200]!r}")
        if found["drive"] is not None:
            full = found["held"] is not None
            origin = int(found["origin"] or 0)
            drives.append(Element(int(found["drive"]), full, _barcode(found["held"]), origin))
        else:
            full = found["barcode"] is not None
            element = Element(int(found["slot"]), full, _barcode(found["barcode"]))
            (slots if found["kind"] == "S" else doors).append(element)
    inventory = Inventory(*(tuple(sorted(part)) for part in (drives, slots, doors)))
    _check_numbers("drives", inventory.drives, 0)
    _check_numbers("slots", inventory.slots, 1)
    _check_numbers("import/export slots", inventory.doors, len(slots) + 1)
    return inventory


def _barcode(text: str | None) -> str:
    """Empty also for one that can't be a barcode."""
    try:
        return msgspec.convert((text or "").strip(), Barcode)
    except msgspec.ValidationError:
        return ""


def _check_numbers(what: str, elements: Sequence[Element], first: int) -> None:
    numbers = [element.number for element in elements]
    if numbers != list(range(first, first + len(numbers))):
        raise ChangerJam(f"listall: the {what} should count from {first}: {numbers[:20]}")
