"""The exit codes of `cdpfs`, a contract with scripts. Pure.

`docs/operations.md` has them as a table; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says. 0 to 2 are those of any Unix command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DAMAGE = 3
    NO_VOLUME = 4
    BUSY = 5
    NO_MOMENT = 6
    NO_PATH = 7
    PERMISSION = 8
    UNREACHABLE = 9
    SPACE = 10
    FORMAT = 11
    ENVIRONMENT = 12
    COMPANIONS = 13
    HOOK = 14
    NOT_BETWEEN = 15
    UNPROTECTED = 16
    BEHIND = 17
    NEEDS_CARTRIDGE = 18
    NO_SCRATCH = 19
    MEDIA = 20
    LIBRARY = 21

    @property
    def meaning(self) -> str:
        """One line for people."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "failed; the message says why",
    ExitCode.USAGE: "the command line is not valid, or the directory can't be protected as it is",
    ExitCode.DAMAGE: "damage was found in the store, in a catalogue or on a cartridge",
    ExitCode.NO_VOLUME: "no such volume, vault or tape library, or the directory is not protected",
    ExitCode.BUSY: "busy: already mounted or protected, something still uses the mount, or "
    "another process works with the tape library",
    ExitCode.NO_MOMENT: "the moment is unknown, in the future, or before protection began",
    ExitCode.NO_PATH: "the path did not exist at that moment, or there is no such cartridge",
    ExitCode.PERMISSION: "permission denied; the vault refuses, or its certificate is not trusted",
    ExitCode.UNREACHABLE: "not mounted, or the daemon or the vault does not answer",
    ExitCode.SPACE: "no space left, or a read-only disk",
    ExitCode.FORMAT: "the store or a cartridge has a format that this version does not support",
    ExitCode.ENVIRONMENT: "the machine lacks something, such as /dev/fuse or fusermount3",
    ExitCode.COMPANIONS: "the file has companions: say --with-companions or --alone",
    ExitCode.HOOK: "a --pre or --post command failed or ran out of time; the message says if the "
    "mark is set",
    ExitCode.NOT_BETWEEN: "bisect: not good at the beginning, or not bad at the end",
    ExitCode.UNPROTECTED: "changes are not logged, or refused, because the store is full or fails",
    ExitCode.BEHIND: "replicate wait, tape spool: the time was up before everything was there",
    ExitCode.NEEDS_CARTRIDGE: "cartridges have to be brought to the library; the message names "
    "them",
    ExitCode.NO_SCRATCH: "no cartridge may be written, and none may be recycled",
    ExitCode.MEDIA: "a cartridge can't be used: unreadable, write-protected, foreign, or another "
    "one than it should be",
    ExitCode.LIBRARY: "the changer or a drive does not do what it should, is not ready, or has "
    "no free slot",
}
