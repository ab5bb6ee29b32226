"""`cdpfs tape calibrate`: how fast a drive is at which block size.

Duty: bring a blank cartridge into the drive, measure, bring it back, say what came of it.
"""

from __future__ import annotations

from pathlib import Path

from console.errors import WrongUse
from console.output import duration_text, note, print_json, say, size_text, table
from console.sizes import parse_size
from tape.calibrate import Calibration, load
from tape.calibrate import calibrate as measure
from tape.errors import NoSuchCartridge
from tape.library import Library, open_library


def calibrate(home: Path, barcode: str, number: int, size: str, as_json: bool) -> None:
    """Measure a drive with a cartridge, which has to be blank."""
    bytes_each = parse_size(size)
    with open_library(home, "a calibration") as library:
        if not 0 <= number < len(library.drives):
            last = len(library.drives) - 1
            raise WrongUse(f"there is no drive {number}", f"they count from 0 to {last}")
        found = _measured(library, barcode, number, bytes_each)
        used_bytes = library.settings.block_bytes
    if as_json:
        print_json(_json(found, used_bytes))
    else:
        _show(found, used_bytes)


def _measured(library: Library, barcode: str, number: int, bytes_each: int) -> Calibration:
    slots = [slot.number for slot in library.changer.inventory().slots if slot.barcode == barcode]
    if len(slots) != 1:
        raise NoSuchCartridge(f"{barcode} is in {len(slots)} slots of the library")
    drive = library.drives[number]
    load_s = load(library.changer, drive, slots[0], say=note)
    try:
        return measure(drive, load_s, bytes_each=bytes_each, say=note)
    finally:
        drive.close()
        library.changer.unload(number, slots[0])


def _json(found: Calibration, used_bytes: int) -> dict[str, object]:
    return {
        "drive": found.drive,
        "load_s": found.load_s,
        "filemark_s": found.filemark_s,
        "find_s": found.find_s,
        "back_s": found.back_s,
        "rates": [
            {
                "block_bytes": rate.block_bytes,
                "written_bytes": rate.written_bytes,
                "write_bytes_s": rate.write_bps,
                "read_bytes_s": rate.read_bps,
            }
            for rate in found.rates
        ],
        "block_bytes": found.block_bytes,
        "used_block_bytes": used_bytes,
    }


def _show(found: Calibration, used_bytes: int) -> None:
    rows = [
        (
            size_text(rate.block_bytes),
            f"{rate.write_bps / 1e6:.1f} MB/s",
            f"{rate.read_bps / 1e6:.1f} MB/s",
        )
        for rate in found.rates
    ]
    table(("blocks", "written", "read"), rows, right=(0, 1, 2))
    say(f"loading {duration_text(found.load_s)}, a filemark {found.filemark_s:.3f} s")
    say(f"finding a file {found.find_s:.2f} s, back to the last one {found.back_s:.2f} s")
    say(f"best: {size_text(found.block_bytes)}; the library uses {size_text(used_bytes)}")
    if found.block_bytes != used_bytes:
        say(f"for cartridges yet to be labelled: block_bytes = {found.block_bytes} in library.toml")
