"""The exceptions of the tape library.

TapeError
├── TemporaryTapeError         trying again later can help
│   ├── LibraryBusy            another process works with the library
│   ├── LibraryUnwritable      the disk with the library's folder is full or read-only
│   ├── NotReady               no cartridge in the drive, or it is still being loaded
│   ├── BackupUnfinished       the initial backup of the volume is still going on
│   ├── StageFull              no room on disk for the archive that comes next
│   ├── NoScratch              no cartridge that may be written, and none that may be recycled
│   ├── NeedsCartridge         what is asked for lies on cartridges that are not in the library
│   └── ChangerJam             the changer did not do what it was told
├── EarlyWarning               the end of the medium is near: only the trailer still fits
├── EndOfMedium                nothing fits any more
├── EndOfData                  nothing was written behind here (blank check)
├── WriteProtected             the cartridge's tab, or the library, forbids writing
├── MediaError                 the medium could not be read or written
├── DriveDead                  the drive does not answer or answers nonsense
├── BadCartridge               what is on a cartridge is not ours, or not whole
│   ├── NoLabel                blank or foreign: no label of cdpfs
│   ├── NewerCartridge         written by a newer cdpfs
│   ├── WrongCartridge         another cartridge than its barcode or place says
│   └── BadArchive             an archive that is damaged or was not finished
├── ArchiveTooLarge            the cartridges are too small for what can't be split
├── BadCatalogue               the library's books can't be used as they are
│   ├── DamagedCatalogue       bytes in the catalogue's files are not what was written
│   └── ImpossibleEvent        what is to be recorded contradicts what is on the books
├── BadSettings                settings or a library's description that can't be used
├── NoSuchLibrary              no library at that place
├── NoSuchCartridge            no cartridge of that name
├── UnknownVolume              no volume of that name is on tape there, or several are
├── NoSuchSet                  no set that fits what was asked for
└── LibraryExists              the place is taken
"""

from __future__ import annotations


class TapeError(Exception):
    """Something that the library could not do. `hint` says what the person can do next."""

    hint = "see `cdpfs tape status`"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class TemporaryTapeError(TapeError):
    """A failure that may go away by itself or by what `hint` says."""


class LibraryBusy(TemporaryTapeError):
    """Another process works with the library."""

    hint = "wait until it has ended; `cdpfs tape status` shows what is going on"


class LibraryUnwritable(TemporaryTapeError):
    """The disk with the library's folder is full or read-only."""

    hint = "make room on that disk, or mount it writable"


class NotReady(TemporaryTapeError):
    """No cartridge in the drive, or it is still being loaded."""


class BackupUnfinished(TemporaryTapeError):
    """The initial backup of the volume is still going on: no full can be made yet."""

    hint = "nothing to do: it is tried again; `cdpfs status` shows how far the initial backup is"


class StageFull(TemporaryTapeError):
    """No room on disk for the archive that comes next."""

    hint = "make room on the store's disk, or choose smaller archives (archive_bytes in tape.toml)"


class NoScratch(TemporaryTapeError):
    """No cartridge that may be written, and none that may be recycled."""

    hint = "put blank cartridges into the import slots: cdpfs tape import"


class NeedsCartridge(TemporaryTapeError):
    """What is asked for lies on cartridges that are not in the library. `barcodes` names them."""

    hint = "bring them and put them into the import slots: cdpfs tape import"

    def __init__(self, message: str, barcodes: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.barcodes = barcodes


class ChangerJam(TemporaryTapeError):
    """The changer did not do what it was told."""

    hint = "look at the library; then cdpfs tape inventory"


class EarlyWarning(TapeError):
    """The end of the medium is near: only the trailer still fits.

    Whether the block that met it was written is not known.
    """


class EndOfMedium(TapeError):
    """Nothing fits any more."""


class EndOfData(TapeError):
    """Nothing was written behind here (blank check)."""


class WriteProtected(TapeError):
    """The cartridge's tab, or the library, forbids writing."""

    hint = "move the tab on the cartridge, or take another one"


class MediaError(TapeError):
    """The medium could not be read or written."""

    hint = "the cartridge is counted as faulty; cdpfs tape retire takes it out of use"


class DriveDead(TapeError):
    """The drive does not answer or answers nonsense."""

    hint = "look at the drive; the library goes on with its other drives"


class BadCartridge(TapeError):
    """What is on a cartridge is not ours, or not whole."""


class NoLabel(BadCartridge):
    """Blank or foreign: no label of cdpfs. `blank` tells which."""

    def __init__(self, message: str, blank: bool, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.blank = blank


class NewerCartridge(BadCartridge):
    """Written by a newer cdpfs."""

    hint = "update cdpfs on this machine; nothing on the cartridge was changed"


class WrongCartridge(BadCartridge):
    """Another cartridge than its barcode or place says."""

    hint = "cdpfs tape inventory --read-labels finds out which cartridge is where"


class BadArchive(BadCartridge):
    """An archive that is damaged or was not finished."""


class ArchiveTooLarge(TapeError):
    """The cartridges are too small for what can't be split."""

    hint = "use cartridges of a larger capacity"


class BadCatalogue(TapeError):
    """The library's books can't be used as they are."""

    hint = "cdpfs tape scan writes them anew from the cartridges"


class DamagedCatalogue(BadCatalogue):
    """Bytes in the catalogue's files are not what was written."""


class ImpossibleEvent(BadCatalogue):
    """What is to be recorded contradicts what is on the books."""


class BadSettings(TapeError):
    """Settings or a library's description that can't be used."""


class NoSuchLibrary(TapeError):
    """No library at that place."""

    hint = (
        "bring it back to where it was (mount its disk); if there never was one: "
        "cdpfs tape create-library L"
    )


class NoSuchCartridge(TapeError):
    """No cartridge of that name."""

    hint = "cdpfs tape inventory lists them"


class UnknownVolume(TapeError):
    """No volume of that name is on tape in the library, or it is not clear which one is meant."""

    hint = "say which with --volume; cdpfs tape status lists them"


class NoSuchSet(TapeError):
    """No set that fits what was asked for."""

    hint = "cdpfs tape status lists the sets"


class LibraryExists(TapeError):
    """The place is taken."""
