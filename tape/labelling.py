"""Writing a cartridge's label, so that it counts.

Duty: write file 0 and read it back. Everything that was on the cartridge is gone then. Whoever
calls this has made sure that nothing is lost. Blocking; the drive's thread.
"""

from __future__ import annotations

from tape.catalogue import AnyEvent, Labelled, Moved
from tape.drive import Drive
from tape.errors import MediaError
from tape.label_archive import read_label, write_label_archive
from tape.layout import Label
from tape.writer import blocks_of


def write_label(drive: Drive, label: Label) -> None:
    """Make the cartridge in an open drive the one of that label.

    The head stands behind the label afterwards. WriteProtected, MediaError, DriveDead.
    """
    archive = bytearray()
    write_label_archive(label, _Gathered(archive))
    drive.rewind()
    for start in range(0, len(archive), label.block_bytes):
        drive.write_block(bytes(archive[start : start + label.block_bytes]))
    drive.write_filemark()
    drive.rewind()
    if read_label(blocks_of(drive)) != label:
        raise MediaError(f"{drive.name}: the label is not read back as it was written")
    drive.to_file(1)


def label_events(label: Label, drive: Drive, replaces: str, now_ns: int) -> tuple[AnyEvent, ...]:
    """What the books are told of a cartridge that has just been labelled in a drive.

    `replaces`: the label that it had on the books; empty for none.
    """
    return (
        Labelled(time_ns=now_ns, label=label, replaces=replaces),
        Moved(
            time_ns=now_ns,
            label_id=label.label_id,
            place="drive",
            number=drive.number,
            barcode=label.barcode,
        ),
    )


class _Gathered:
    """Takes an archive's bytes into memory: a label has a block or two."""

    def __init__(self, into: bytearray) -> None:
        self._into = into

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._into += data
