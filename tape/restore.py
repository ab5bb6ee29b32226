"""From cartridges to a store that can be read: which are needed, and only what is needed of them.

Duty: read the archives of a set, in order, from whichever cartridges they are on, into a store
(`tape/rebuild.py`). What has to be brought first is said before anything moves. An archive that
can't be read is noted on the books, so that the next try takes another set. Blocking; one thread;
the library's lock is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from store import durable
from store.errors import BaselineError
from store.keys import KeyRing
from store.relocation import Relocation
from store.types import Lsn
from tape.archive_reader import ArchiveReader
from tape.catalogue import ArchiveBad
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import Archive, Cartridge, State
from tape.drive import Drive
from tape.errors import BadArchive, MediaError, NeedsCartridge, NoSuchSet, UnknownVolume
from tape.locate import first_entry, locate
from tape.part_view import PartView
from tape.reach import Part
from tape.rebuild import NOTE, Rebuild, Rebuilt
from tape.robot import Robot, Wanted
from tape.shopping import Shopping, shopping_text
from tape.writer import blocks_of, read_back, to_file


def volume_of(state: State, name: str) -> str:
    """The UUID of the volume that is meant: by name or UUID; empty: the only one.

    UnknownVolume; NoSuchSet when nothing is on tape at all.
    """
    known = {each.volume_uuid: _name_of(state, each.volume_uuid) for each in state.sets.values()}
    if not known:
        raise NoSuchSet("nothing is on tape in this library", "look into it: cdpfs tape scan")
    found = [uuid for uuid, title in known.items() if not name or name in (uuid, title)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(sorted(known.values()))
    what = f"no volume {name} is on tape" if name else "several volumes are on tape"
    raise UnknownVolume(what, f"say which with --volume: {listed}")


def _name_of(state: State, volume_uuid: str) -> str:
    labels = (each.label for each in state.cartridges.values())
    return next(
        (label.volume_name for label in labels if label.volume_uuid == volume_uuid), volume_uuid
    )


def require(shopping: Shopping) -> None:
    """NeedsCartridge when a cartridge has to be brought first; it names each and its place."""
    missing = shopping.missing
    if missing:
        raise NeedsCartridge(
            f"needs {shopping_text(missing)}", tuple(each.name for each in missing)
        )


def rebuild(
    robot: Robot,
    catalogue: CatalogueFile,
    shopping: Shopping,
    root: Path,
    *,
    directory: str = "",
    note: Relocation = NOTE,
    ring: KeyRing | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Rebuilt:
    """Make a store at `root` from a set; a run that was cut short is gone on with.

    NeedsCartridge before anything moves. BadArchive when an archive can't be read: it is on the
    books then. KeyMissing, StoreError.
    """
    require(shopping)
    with Rebuild(root, directory, note) as made:
        for cartridge, archive in _wanted(shopping, made):
            drive = robot.fetch(Wanted(cartridge.label_id, cartridge.barcode, cartridge.number))
            say(f"reading file {archive.file} of {cartridge.name}")
            try:
                made.take(reader_of(drive, archive, ring))
            except (BadArchive, MediaError, BaselineError) as error:
                if isinstance(error, BaselineError) and _is_as_written(drive, archive):
                    raise  # it is not the cartridge
                _note_bad(robot, catalogue, cartridge, archive, error)
                raise BadArchive(f"file {archive.file} of {cartridge.name}: {error}") from error
        return made.finish()


def _is_as_written(drive: Drive, archive: Archive) -> bool:
    """Are the bytes on the cartridge those that were put there?"""
    try:
        drive.to_file(archive.file)
        return read_back(drive).digest == archive.digest
    except MediaError:
        return False


def _note_bad(
    robot: Robot,
    catalogue: CatalogueFile,
    cartridge: Cartridge,
    archive: Archive,
    error: Exception,
) -> None:
    catalogue.append(
        ArchiveBad(
            time_ns=robot.now_ns(),
            label_id=cartridge.label_id,
            file=archive.file,
            what=str(error),
        )
    )


def rebuild_best(
    robot: Robot,
    catalogue: CatalogueFile,
    choose: Callable[[State], Shopping],
    root: Path,
    *,
    directory: str = "",
    note: Callable[[Shopping], Relocation] = lambda shopping: NOTE,
    ring: KeyRing | None = None,
    say: Callable[[str], None] = lambda text: None,
    disposable: bool = False,
) -> tuple[Rebuilt, Shopping]:
    """As `rebuild`, from the set that `choose` finds; from the next best when one can't be read.

    Only a store that this call has begun is taken away for it, or one that is `disposable`.
    `note`: what the store is to say of itself. NoSuchSet when there is none left.
    """
    fresh = disposable or not (root / "volume.toml").exists()
    while True:
        shopping = choose(catalogue.state)
        try:
            made = rebuild(
                robot,
                catalogue,
                shopping,
                root,
                directory=directory,
                note=note(shopping),
                ring=ring,
                say=say,
            )
        except BadArchive as error:
            if not fresh:
                raise
            # It is on the books now, so that the same can't be chosen for ever.
            say(f"{error}: looking for another set")
            drop_store(root)
            continue
        return made, shopping


def drop_store(root: Path) -> None:
    """Take away a store that was begun. Cut short, what is left is one that was just begun."""
    for path in root.iterdir():
        if path.is_dir():
            durable.drop_tree(path)
        elif path.name != "volume.toml":
            durable.unlink(path)
    durable.drop_tree(root)


def _wanted(shopping: Shopping, made: Rebuild) -> Iterator[tuple[Cartridge, Archive]]:
    """What of the set is not in the store yet, in order; asked again after each archive."""
    for part in shopping.parts:
        for archive in part.archives:
            full = archive.kind == "full"
            if made.begun and (full or archive.last_lsn < made.next_lsn):
                continue
            yield part.cartridge, archive


def part_of_full(
    robot: Robot,
    shopping: Shopping,
    path: bytes,
    folder: Path,
    *,
    ring: KeyRing | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PartView:
    """A path as the set's full has it; only the archives that hold it are read.

    `folder`: an empty one for its content. NeedsCartridge before anything moves. BadArchive,
    MediaError, KeyMissing.
    """
    fulls = [
        Part(part.cartridge, tuple(each for each in part.archives if each.kind == "full"))
        for part in shopping.parts
    ]
    require(shopping._replace(parts=tuple(part for part in fulls if part.archives)))
    where = {archive.sequence: part.cartridge for part in fulls for archive in part.archives}
    archives = [archive for part in fulls for archive in part.archives]

    def read(archive: Archive) -> ArchiveReader:
        cartridge = where[archive.sequence]
        drive = robot.fetch(Wanted(cartridge.label_id, cartridge.barcode, cartridge.number))
        return reader_of(drive, archive, ring)

    view = PartView(folder, Lsn(shopping.reach.base_lsn))
    wanted, taken = [path], set[bytes]()
    while wanted:
        each = wanted.pop()
        taken.add(each)
        for archive in locate(archives, each, lambda found: first_entry(read(found))):
            say(f"reading file {archive.file} of {where[archive.sequence].name}")
            view.take(read(archive), each)
        wanted += [more for more in view.missing() if more not in taken and more not in wanted]
    return view


def reader_of(drive: Drive, archive: Archive, ring: KeyRing | None) -> ArchiveReader:
    """The archive on the cartridge in a drive. BadArchive when it is another one."""
    to_file(drive, archive.file)
    reader = ArchiveReader(blocks_of(drive), ring)
    head = reader.head
    if (head.set_id, head.sequence) != (archive.set_id, archive.sequence):
        raise BadArchive(
            f"file {archive.file} is archive {head.sequence} of the set {head.set_id}, not"
            f" {archive.sequence} of {archive.set_id}"
        )
    return reader
