"""The exceptions of the store.

StoreError
├── TemporaryStoreError        trying again later can help
│   ├── StoreBusy              another process holds the store
│   ├── StoreFull              no space for the store's files
│   ├── NotLogging             changes are not logged at the moment
│   └── StoreFault             the store's disk fails, is gone or read-only
├── DamagedError               bytes on disk are not what was written
│   └── IntakeGap              the intake log does not hold the asked LSN
├── BaselineError              what a copy is made from does not fit together
│   └── BaselineTooLong        the tree takes more ops than there are LSNs before it
├── IndexStale                 the segments know more than the index
├── UnsupportedFormat          written by a newer cdpfs, or not a store at all
├── BadSettings                a volume can't be made with these settings
├── BadKeyFile                 a key file or a backup of one that can't be used
├── KeyMissing                 the key that sealed something is not at hand
├── NoSuchVolume               no store is known for a path
├── RecoveryUnfinished         a volume is being recovered and can't be used yet
├── NotEmpty                   the directory of a recovery has something in it
└── VolumeExists               the place is taken by another store
"""

from __future__ import annotations


class StoreError(Exception):
    """Something that the store could not do. `hint` says what the person can do next."""

    hint = "see the log in the store's `log` folder"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class TemporaryStoreError(StoreError):
    """A failure that may go away by itself or by what `hint` says.

    `lost`: kind, node, offset and payload of the op that could not be logged, if it was one.
    """

    lost: tuple[int, int, int, bytes] | None = None


class StoreBusy(TemporaryStoreError):
    """Another process holds the store."""

    hint = "the volume is mounted or being worked on already; see `cdpfs status`"


class StoreFull(TemporaryStoreError):
    """The file system that holds the store has no space left."""

    hint = "free some space on the store's file system"


class NotLogging(TemporaryStoreError):
    """Changes go on without being logged, and this makes no sense without."""

    hint = "see `cdpfs status`; it goes on by itself when the store has room and answers"


class StoreFault(TemporaryStoreError):
    """The disk that holds the store does not do what it should. `number` is the errno."""

    hint = "see to the disk of the store (dmesg, mount); cdpfs goes on by itself when it answers"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class DamagedError(StoreError):
    """Bytes on disk do not match their checksum, or a structure is impossible.

    `path` and `offset` say where; `first` and `last` which LSNs are touched (0 when unknown).
    """

    hint = "run `cdpfs verify` to see the extent of the damage"

    def __init__(self, path: object, offset: int, what: str, first: int = 0, last: int = 0) -> None:
        lsns = f", LSN {first} to {last}" if last else ""
        super().__init__(f"{path}: {what} at byte {offset}{lsns}")
        self.path = str(path)
        self.offset = offset
        self.what = what
        self.first = first
        self.last = last


class IntakeGap(DamagedError):
    """The intake log does not hold the op that should come next."""


class BaselineError(StoreError):
    """What a copy of a volume is to be made from is damaged, incomplete or contradicts itself."""

    hint = "make the copy from another set"


class BaselineTooLong(BaselineError):
    """To describe the tree takes more ops than there were LSNs by then."""

    hint = "make the copy from a full that was written later"


class IndexStale(StoreError):
    """The index is missing or older than the segments."""

    hint = "unmount the volume and rebuild the index: cdpfs reindex DIR"


class UnsupportedFormat(StoreError):
    """A file's version or mandatory features are not known to this cdpfs."""

    hint = "use the cdpfs version that wrote it, or a newer one"


class RebuildIndex(UnsupportedFormat):
    """The index is of another version; it can be rebuilt from the segments."""

    hint = "rebuild it from the segments: cdpfs reindex"


class BadSettings(StoreError):
    """A volume can't be made with these settings."""

    hint = "see cdpfs protect --help"


class NoSuchVolume(StoreError):
    """No store is known for a path."""

    hint = "protect the directory first: cdpfs protect DIR (or name its store with --store)"


class RecoveryUnfinished(StoreError):
    """The store of a volume that is being recovered, and is not complete yet."""

    hint = "run the same `cdpfs replicate recover` again"


class NotEmpty(StoreError):
    """The directory of a recovery has something in it."""

    hint = "name an empty directory, or move away what is in this one"


class VolumeExists(StoreError):
    """The place is taken by another store."""

    hint = "use another --store, or mount the volume that is there: cdpfs mount DIR"


class NotSeeded(StoreError):
    """What was there before cdpfs is not in the journal yet.

    `name` is the name in directory `node` that is not adopted yet, or `region` the number of the
    content chunk of file `node`; with neither, the listing of directory `node` is incomplete.
    """

    hint = "wait for the initial backup (`cdpfs status` shows it) or mount the volume"

    def __init__(self, node: int, name: bytes | None = None, region: int | None = None) -> None:
        what = "its listing"
        if name is not None:
            what = f"name {name!r}"
        elif region is not None:
            what = f"content chunk {region}"
        super().__init__(f"node {node}: {what} is not in the journal yet")
        self.node = node
        self.name = name
        self.region = region


class NeverCaptured(StoreError):
    """Content that changed outside the mount before the initial backup had reached it."""

    hint = "only moments after that change can be read; see `cdpfs history`"


class InconsistentLog(StoreError):
    """An op refers to something that the log never introduced: a bug, or a damaged log."""

    hint = "keep the store as it is and report this; `cdpfs verify` checks the segments"


class KeyMissing(StoreError):
    """Something was sealed with a key that is not at hand."""

    hint = "use the key file of the site that sealed it, or its backup: cdpfs key import-backup"


class BadKeyFile(StoreError):
    """A key file, or the backup of one, is damaged, missing, in the way, or open to others."""

    hint = "see `cdpfs key --help`; import-backup makes a key file from its backup"
