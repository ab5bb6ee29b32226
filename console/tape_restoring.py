"""`cdpfs tape scan | restore | verify | load | unload`: what reads cartridges.

Duty: open the library and its books, say what is being read, and what came of it. What has to be
brought from outside is said before anything moves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.errors import WrongUse
from console.exit_codes import ExitCode
from console.output import (
    note,
    path_text,
    print_json,
    say,
    size_text,
    time_json,
    time_text,
)
from console.restore_scratch import restore_scratch
from console.restoring import Request
from console.restoring import restore as carry_out
from console.tape_attaching import open_books
from console.tape_books import cartridge_json
from console.volumes import relative_path
from store.key_file import read_key_file
from store.keys import KeyRing
from store.volume import Store, list_stores, register
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import State
from tape.inventory import take_inventory
from tape.librarian import Librarian, find_cartridge
from tape.library import Library, open_library
from tape.reach import parts_for
from tape.rebuild import Rebuilt
from tape.restore import part_of_full, rebuild_best, volume_of
from tape.robot import Hands, Robot, Wanted
from tape.scan import Scan, scan_library
from tape.shopping import Shopping, find_set
from tape.verify import to_verify
from tape.verify import verify as carry_out_verify
from timetravel.moment import AtLsn, AtTime, parse_moment
from timetravel.place import Place
from timetravel.restore import restore as restore_view


@dataclass(frozen=True)
class Chosen:
    """Which copy is meant; empty words leave the choice to cdpfs."""

    home: Path
    volume: str = ""
    pool: str = ""
    moment: str = ""
    key_file: str = ""

    def ring(self) -> KeyRing | None:
        """The keys that open it, if it is sealed."""
        return read_key_file(Path(self.key_file)) if self.key_file else None

    def shopping(self, state: State, history: bool = False) -> Shopping:
        """The set that gives back the moment, and what has to be read of it. NoSuchSet.

        `history`: of those that know as much, the one that goes back furthest.
        """
        uuid, pool = volume_of(state, self.volume), self.pool or None
        if not self.moment:
            return find_set(state, uuid, pool=pool, history=history)
        moment = parse_moment(self.moment, now_ns=time.time_ns(), zone=None)
        if isinstance(moment, AtLsn):
            return find_set(state, uuid, lsn=int(moment.lsn), pool=pool, history=history)
        if isinstance(moment, AtTime):
            return find_set(state, uuid, time_ns=int(moment.time_ns), pool=pool, history=history)
        # Marks and last writes are found in the newest history.
        return find_set(state, uuid, pool=pool, history=history)


def _say(text: str) -> None:
    if text:
        note(text)


def scan(chosen: Chosen, store_root: str | None, directory: str, as_json: bool) -> ExitCode:
    """Find out what is on the cartridges; with a store, make it from the best set."""
    found = write_books_anew(chosen.home)
    rebuilt = None
    if store_root is not None:
        rebuilt = _rebuilt(chosen, Path(store_root), directory)
    if as_json:
        print_json(_scan_json(found, rebuilt))
    else:
        _show_scan(found, rebuilt)
    return ExitCode.OK


def write_books_anew(home: Path) -> Scan:
    """Read every cartridge; the library's books are what came of it."""
    with open_library(home, "scanning") as library:
        robot = _robot_without_books(library)
        found = scan_library(robot, library, time.time_ns(), _say)
        robot.put_all_away()
        with CatalogueFile.replace(library.catalogue, found.state) as catalogue:
            # What is blank or a stranger is on no cartridge's books.
            take_inventory(library, catalogue, time.time_ns())
    return found


def _robot_without_books(library: Library) -> Robot:
    return Robot(
        Hands(
            library.changer,
            library.drives,
            lambda event: None,
            time.time_ns,
            time.sleep,
            _say,
            library.settings.cleaning_prefix,
        )
    )


def _rebuilt(chosen: Chosen, root: Path, directory: str) -> Rebuilt:
    """A store from the best set of a volume, registered as any other."""
    with open_librarian(chosen.home, "rebuilding a store") as (catalogue, librarian):
        made, _ = rebuild_best(
            librarian.robot,
            catalogue,
            lambda state: _whole(state, chosen.shopping(state)),
            root,
            directory=directory,
            ring=chosen.ring(),
            say=_say,
        )
        librarian.robot.put_all_away()
    register_copy(made.store)
    return made


def register_copy(store: Store) -> None:
    """Make the volume findable by its directory, unless it is here already: the mount goes on."""
    for other in list_stores():
        if other.root != store.root.resolve() and other.config.directory == store.config.directory:
            note(
                f"the volume of {path_text(store.config.directory)} is on this machine; this copy"
                f" is read with --store {path_text(str(store.root))}"
            )
            return
    register(store)


def _whole(state: State, found: Shopping) -> Shopping:
    """Everything that the set has: a store to go on with needs no less."""
    return found._replace(parts=parts_for(state, found.tape_set, found.reach.last_lsn))


@contextlib.contextmanager
def open_librarian(home: Path, doing: str) -> Iterator[tuple[CatalogueFile, Librarian]]:
    """The books and who works by them, in a library of which an inventory was taken just now."""
    with open_books(home, doing) as (library, catalogue):
        librarian = Librarian(library, catalogue, _say)
        librarian.take_inventory()
        yield catalogue, librarian


def _scan_json(found: Scan, rebuilt: Rebuilt | None) -> dict[str, Any]:
    return {
        "cartridges": [
            {
                "name": read.barcode or read.label.label_id,
                "pool": read.label.pool,
                "volume": read.label.volume_name,
                "archives": len(read.files),
                "note": read.note,
            }
            for read in found.read
        ],
        "strangers": [
            {"slot": element.number, "barcode": element.barcode, "what": what}
            for element, what in found.strangers
        ],
        "sets": [
            {
                "set_id": each.set_id,
                "pool": each.pool,
                "volume_uuid": each.volume_uuid,
                "archives": len(each.archives),
                "whole": each.whole,
            }
            for each in found.state.sets.values()
        ],
        "store": None
        if rebuilt is None
        else {
            "path": str(rebuilt.store.root),
            "base_lsn": rebuilt.base_lsn,
            "end_lsn": rebuilt.end_lsn,
            "lost": rebuilt.lost,
        },
    }


def _show_scan(found: Scan, rebuilt: Rebuilt | None) -> None:
    for read in found.read:
        words = f"{len(read.files)} archives, pool {read.label.pool} of {read.label.volume_name}"
        say(
            f"{read.barcode or read.label.label_id}  {words}" + (f"; {read.note}" * bool(read.note))
        )
    for element, what in found.strangers:
        say(f"{element.barcode or 'no barcode'}  slot {element.number}: {what}")
    whole = sum(each.whole for each in found.state.sets.values())
    say(f"sets        {len(found.state.sets)}, {whole} of them with a whole full")
    if rebuilt is not None:
        say(f"store       {path_text(str(rebuilt.store.root))}")
        say(f"history     LSN {rebuilt.base_lsn} to {rebuilt.end_lsn}")
        if rebuilt.lost:
            note(f"WARNING: {rebuilt.lost} files were never captured whole")


def restore(chosen: Chosen, request: Request, scratch: str, as_json: bool) -> ExitCode:
    """Bring a path back from cartridges, by way of a store that is made for it and taken away."""
    target = request.destination or "."
    parent = Path(scratch) if scratch else Path(target).absolute().parent
    with restore_scratch(parent, target) as folder:
        with open_librarian(chosen.home, "restoring") as (catalogue, librarian):
            made, shopping = rebuild_best(
                librarian.robot,
                catalogue,
                chosen.shopping,
                folder / "store",
                ring=chosen.ring(),
                say=_say,
            )
            librarian.robot.put_all_away()
        moment = request.moment or f"@lsn:{min(shopping.lsn, made.end_lsn)}"
        return carry_out(_from(request, str(made.store.root), moment), as_json)


def restore_from_full(chosen: Chosen, request: Request, as_json: bool) -> ExitCode:
    """Bring a path back as the set's full has it; only the archives that hold it are read."""
    target = os.path.abspath(os.fsencode(request.destination or ""))
    parent, name = os.path.split(target)
    if os.path.lexists(target) and not request.overwrite:
        raise WrongUse(f"{path_text(target)} is there already", "give --overwrite to replace it")
    with restore_scratch(Path(os.fsdecode(parent)), os.fsdecode(target)) as folder:
        with open_librarian(chosen.home, "restoring") as (catalogue, librarian):
            shopping = chosen.shopping(catalogue.state)
            path = relative_path(request.path, _directory_of(catalogue.state, shopping))
            view = part_of_full(
                librarian.robot, shopping, path, folder, ring=chosen.ring(), say=_say
            )
            librarian.robot.put_all_away()
        with Place(parent) as place:
            report = restore_view(view, path, place, name)
    base = shopping.reach
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "lsn": base.base_lsn,
                "time": time_json(base.base_time_ns),
                "written_bytes": report.written_bytes,
                "failures": [[path_text(path), why] for path, why in report.failures],
            }
        )
    else:
        say(f"restored  as of {time_text(base.base_time_ns)}, when the set was begun")
        for failed, why in report.failures:
            note(f"FAILED  {path_text(failed)}: {why}")
    return ExitCode.OK if report.ok else ExitCode.FAILURE


def _directory_of(state: State, shopping: Shopping) -> bytes:
    """The volume's tree at the site; paths are below it or relative to it."""
    volume = state.volumes.get(shopping.tape_set.volume_uuid)
    return os.fsencode(volume.directory) if volume is not None else b"/"


def _from(request: Request, store: str, moment: str) -> Request:
    from dataclasses import replace

    return replace(request, store=store, moment=moment)


def verify(home: Path, names: list[str], as_json: bool) -> ExitCode:
    """Read cartridges again and compare; DAMAGE when something is not as it was written."""
    with open_librarian(home, "verifying") as (catalogue, librarian):
        chosen = to_verify(catalogue.state, tuple(names))
        found = carry_out_verify(librarian.robot, catalogue, chosen, time.time_ns, _say)
        librarian.robot.put_all_away()
    if as_json:
        print_json(
            {
                "archives": found.archives,
                "bytes": found.size_bytes,
                "bad": [{"cartridge": c, "file": f, "what": w} for c, f, w in found.bad],
                "absent": found.absent,
            }
        )
    else:
        say(f"read    {found.archives} archives, {size_text(found.size_bytes)}")
        for name, file, what in found.bad:
            say(f"DAMAGE  file {file} of {name}: {what}")
        if found.absent:
            note(f"not in the library: {', '.join(found.absent)}")
    return ExitCode.DAMAGE if found.bad else ExitCode.OK


def load(home: Path, name: str, as_json: bool) -> None:
    """Bring a cartridge into a drive, and leave it there."""
    with open_librarian(home, "loading") as (catalogue, librarian):
        cartridge = find_cartridge(catalogue.state, name)
        drive = librarian.robot.fetch(
            Wanted(cartridge.label_id, cartridge.barcode, cartridge.number)
        )
        found = cartridge_json(catalogue.state, cartridge)
    if as_json:
        print_json(found)
    else:
        say(f"{cartridge.name} is in {drive.name}")


def unload(home: Path, as_json: bool) -> None:
    """Bring whatever is in the drives back into the slots."""
    with open_librarian(home, "unloading"):
        pass  # an inventory begins with empty drives
    if as_json:
        print_json({"drives": "empty"})
    else:
        say("the drives are empty")
