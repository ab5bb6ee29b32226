"""A volume made anew from a replica of its journal or from cartridges: what its store says of that.

Duty: one note in the store's folder, `relocation.json`, from the beginning of the recovery until
the first mount has taken the new tree over. While it is there and not `ready`, the store can't be
mounted: it would start another history under the volume's name. Blocking calls; any thread.

What stays for ever is `foreign_lsn` in `volume.toml`: see there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from store import durable
from store.errors import RecoveryUnfinished, StoreError
from store.types import Lsn
from store.volume import Store

NOTE_NAME = "relocation.json"

REPLICATE_COMMAND = "cdpfs replicate recover"

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Relocation(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How far the recovery of a volume is."""

    stage: Literal["fetching", "restoring", "ready"]
    source: str
    """Where the journal comes from, for people."""
    line: str
    """The line of history that is gone on with."""
    command: str = REPLICATE_COMMAND
    """What makes the store, and goes on with it."""
    set_id: str = ""
    """Of cartridges: the set that the journal comes from."""
    at: str = ""
    """The moment asked for; empty for the visible head."""
    lsn: _Count = 0
    """The tree is as of this LSN; 0 while that is not known."""
    kept: bool = False
    """The tree is not made anew: it outlived its store, and is newer than the journal."""
    ended_ns: _Count = 0
    """When the tree was complete; inodes that changed later were changed by somebody else. Of a
    kept one: when the journal ends."""
    missing: _Count = 0
    """Paths that could not be made because the copy never had their content."""


def read_relocation(store: Store) -> Relocation | None:
    """The note; None when there is none. StoreError when it is not readable."""
    path = _path(store)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Relocation)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} can't be read: {error}", _go_on(store, None)) from error


def write_relocation(store: Store, note: Relocation) -> None:
    """Put it there; atomic and durable."""
    durable.write_file_atomically(_path(store), msgspec.json.encode(note))


def remove_relocation(store: Store) -> None:
    """The tree has been taken over. It does not come back: a power cut after this is an ordinary
    one."""
    durable.unlink(_path(store))


def refuse_unfinished(store: Store) -> None:
    """RecoveryUnfinished while the note says so."""
    note = read_relocation(store)
    if note is not None and note.stage != "ready":
        raise RecoveryUnfinished(
            f"the recovery of {store.config.directory} from {note.source} is not finished",
            _go_on(store, note),
        )


def refuse_short(store: Store, indexed: Lsn) -> None:
    """RecoveryUnfinished if the journal, whose end `indexed` is, lacks what it was to have."""
    if indexed < store.config.foreign_lsn:
        raise RecoveryUnfinished(
            f"the journal ends at LSN {indexed}, but the volume was recovered up to LSN "
            f"{store.config.foreign_lsn}",
            _go_on(store, read_relocation(store)),
        )


def _go_on(store: Store, note: Relocation | None) -> str:
    command = note.command if note is not None else REPLICATE_COMMAND
    return (
        f"run the same `{command}` again: it goes on where it was; to begin anew, "
        f"remove {store.root} and empty the directory first"
    )


def _path(store: Store) -> Path:
    return store.root / NOTE_NAME
