"""`cdpfs tape inventory | label | retire | import | export`: a person's work with cartridges.

Duty: open the library, have the librarian do it, say what came of it. While another process works
with the library these commands end with LibraryBusy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.errors import ConsoleError, WrongUse
from console.exit_codes import ExitCode
from console.output import note, path_text, print_json, say
from console.tape_attaching import open_books
from console.tape_books import cartridge_json, show_cartridges, stranger_json
from console.volumes import volume_of
from store.errors import NoSuchVolume
from store.volume import Store, list_stores
from tape.catalogue import AnyEvent, Moved, Recycled, Retired, SetClosed
from tape.catalogue_state import Cartridge, State
from tape.changer import Element
from tape.choice import is_cleaning
from tape.errors import ChangerJam, NeedsCartridge, NoSuchCartridge, WrongCartridge
from tape.librarian import NO_ROOM, Found, Librarian, find_cartridge
from tape.library import Library
from tape.settings import PoolSettings, TapeSettings, load_settings
from tape.shopping import to_send_out


def library_of(path: str, store_root: str | None, home: str | None) -> Path:
    """The library that is meant: the one that is named, else that of the volume. WrongUse."""
    if home is not None:
        return Path(home).absolute()
    try:
        store = volume_of(path, store_root)
    except NoSuchVolume as error:
        raise WrongUse("which library?", "give --library L") from error
    return Path(required_settings(store).library)


def required_settings(store: Store) -> TapeSettings:
    """The settings of a volume with a library. WrongUse."""
    settings = load_settings(store.root)
    if settings is None:
        directory = path_text(store.config.directory)
        raise WrongUse(f"{directory} has no tape library", "begin with it: cdpfs tape attach DIR")
    return settings


def volumes_of(
    path: str, store_root: str | None, home: str | None
) -> list[tuple[Store, TapeSettings]]:
    """The volumes that are meant: the one that `path` lies in, if its copies are in the library
    `home` or none is named; else all of this machine that have them there. WrongUse.
    """
    if home is None:
        store = volume_of(path, store_root)
        return [(store, required_settings(store))]
    try:
        named = [volume_of(path, store_root)]
    except NoSuchVolume:
        named = []
    place = os.path.realpath(home)
    return _attached_to(place, named) or _attached_to(place, list_stores())


def _attached_to(home: str, stores: Sequence[Store]) -> list[tuple[Store, TapeSettings]]:
    return [
        (store, settings)
        for store in stores
        if (settings := load_settings(store.root)) is not None and settings.library == home
    ]


@contextmanager
def _librarian(home: Path, doing: str) -> Iterator[tuple[Library, Librarian]]:
    """Somebody to do it, in a library of which an inventory was taken just now."""
    with open_books(home, doing) as (library, catalogue):
        librarian = Librarian(library, catalogue, lambda text: note(text) if text else None)
        librarian.take_inventory()
        yield library, librarian


def inventory(home: Path, read_labels: bool, as_json: bool) -> None:
    """What is where, as the robot sees it; with the labels read if they are to be."""
    with _librarian(home, "an inventory") as (library, librarian):
        unread = librarian.take_inventory(rescan=True)
        if read_labels:
            for element in _in_slots(library):
                librarian.identify(element)
            unread = librarian.take_inventory()
        state = librarian.state
        cleaning = _cleaning(library)
    if as_json:
        print_json(
            {
                "cartridges": [cartridge_json(state, each) for each in state.cartridges.values()],
                "others": [stranger_json(each) for each in state.strangers.values()],
                "cleaning": [
                    {"barcode": code, "slot": slot, "uses": state.cleanings.get(code, 0)}
                    for code, slot in cleaning
                ],
                "unread": [each.number for each in unread],
            }
        )
        return
    show_cartridges(state)
    for code, slot in cleaning:
        say(f"{code}  slot {slot}  cleans drives, used {state.cleanings.get(code, 0)} times")
    if unread:
        note("who has no label on the books shows it to: cdpfs tape inventory --read-labels")


def _in_slots(library: Library) -> list[Element]:
    found = library.changer.inventory()
    return [each for each in (*found.slots, *found.doors) if each.full]


def _cleaning(library: Library) -> list[tuple[str, int]]:
    prefix = library.settings.cleaning_prefix
    return [
        (each.barcode, each.number)
        for each in _in_slots(library)
        if is_cleaning(each.barcode, prefix)
    ]


def label(home: Path, names: Sequence[str], slot: int | None, force: bool, as_json: bool) -> None:
    """Make cartridges ones that any pool may take."""
    with _librarian(home, "labelling") as (library, librarian):
        made = [
            librarian.label_scratch(element, force) for element in _elements(library, names, slot)
        ]
        state = librarian.state
    if as_json:
        print_json([cartridge_json(state, each) for each in made])
        return
    for each in made:
        say(f"{each.name} has a new label and is free for any pool")


def _elements(library: Library, names: Sequence[str], slot: int | None) -> list[Element]:
    """The places that are meant. NoSuchCartridge, WrongUse."""
    there = _in_slots(library)
    if slot is not None:
        found = [each for each in there if each.number == slot]
        if not found:
            raise NoSuchCartridge(f"slot {slot} is empty")
        return found
    if not names:
        raise WrongUse("which cartridge?", "give its barcode, or --slot N")
    elements = []
    for name in names:
        named = [each for each in there if each.barcode == name]
        if not named:
            raise NoSuchCartridge(f"no cartridge {name} is in a slot of the library")
        if len(named) > 1:
            slots = ", ".join(str(each.number) for each in named)
            raise WrongUse(f"{len(named)} cartridges claim {name}", f"one of --slot {slots}")
        elements += named
    return elements


def retire(home: Path, names: Sequence[str], reason: str, lost: bool, as_json: bool) -> None:
    """Never write to cartridges again; with `lost`, what is on them is gone as well."""
    with open_books(home, "retiring") as (_, catalogue):
        state = catalogue.state
        found = [find_cartridge(state, name) for name in names]
        for each in found:
            now_ns = time.time_ns()
            events: list[AnyEvent] = [
                Retired(time_ns=now_ns, label_id=each.label_id, barcode=each.barcode, reason=reason)
            ]
            if lost:
                events += [
                    SetClosed(time_ns=now_ns, set_id=tape_set.set_id, whole=tape_set.whole)
                    for tape_set in state.sets_on(each)
                    if not tape_set.closed_ns
                ]
                events.append(Recycled(time_ns=now_ns, label_id=each.label_id))
                events.append(Moved(time_ns=now_ns, label_id=each.label_id, place="missing"))
            catalogue.append(*events)
        done = [cartridge_json(state, each) for each in found]
    if as_json:
        print_json(done)
        return
    for each in found:
        what = "what was on it is lost" if lost else "what is on it can be read as long as it works"
        say(f"{each.name} is never written again; {what}")


def take_in(home: Path, blank: int, cartridges: Sequence[str], as_json: bool) -> None:
    """Bring in what lies in the import slots. Exit codes: MEDIA when some of it is no good,
    LIBRARY when there is no room for it."""
    with _librarian(home, "an import") as (library, librarian):
        if blank or cartridges:
            _put_in(library, blank, cartridges)
        taken, refused = librarian.take_in()
    if as_json:
        print_json(
            {
                "taken": [_found_json(each) for each in taken],
                "refused": [_found_json(each) for each in refused],
            }
        )
    else:
        _say_taken(taken, refused)
        if not taken and not refused:
            say("the import slots are empty")
    crowded = [each for each in refused if each.note == NO_ROOM]
    if crowded and len(crowded) == len(refused):
        raise ConsoleError(
            f"{len(crowded)} cartridges found no free storage slot",
            "take others out: cdpfs tape export BARCODE",
            code=ExitCode.LIBRARY,
        )
    if refused:
        names = ", ".join(each.barcode or f"slot {each.slot}" for each in refused)
        raise ConsoleError(
            f"not taken in: {names}",
            "take them out of the import slots; what holds nothing that is needed can be written"
            " over: cdpfs tape label BARCODE --force",
            code=ExitCode.MEDIA,
        )


def _put_in(library: Library, blank: int, cartridges: Sequence[str]) -> None:
    """What a person does at a real library: put cartridges into the doors.

    WrongUse; exit code LIBRARY, before anything is done, when there are too few doors.
    """
    if library.virtual is None:
        raise WrongUse("this library is a real one", "put the cartridges in with your hands")
    free = sum(not each.full for each in library.changer.inventory().doors)
    if blank + len(cartridges) > free:
        raise ConsoleError(
            f"{blank + len(cartridges)} cartridges do not fit into the import slots: {free} of"
            " them are free",
            f"put in {free} at a time" if free else "empty them first: cdpfs tape import",
            code=ExitCode.LIBRARY,
        )
    # Names can be wrong: then nothing new has been made.
    for barcode in cartridges:
        library.virtual.insert(barcode)
    if blank:
        library.virtual.insert_blank(count=blank)


def _found_json(found: Found) -> dict[str, object]:
    return {
        "slot": found.slot,
        "barcode": found.barcode,
        "what": found.what,
        "label_id": found.cartridge.label_id if found.cartridge else "",
        "pool": found.cartridge.label.pool if found.cartridge else "",
        "note": found.note,
    }


def _say_taken(taken: Sequence[Found], refused: Sequence[Found]) -> None:
    for each in taken:
        name = each.barcode or "a cartridge without a barcode"
        if each.cartridge is not None:
            what = f"back again, of the pool {each.cartridge.label.pool}"
        else:
            what = "cleans drives" if each.what == "cleaning" else "blank, free for any pool"
        say(f"{name}  slot {each.slot}  {what}")
    for each in refused:
        note(f"{each.barcode or 'a cartridge'} in door {each.slot} is {each.what}: {each.note}")


@dataclass(frozen=True)
class Outgoing:
    """Which cartridges go out: those that are named, or a pool's, or else those that are due."""

    names: tuple[str, ...] = ()
    pool: str | None = None
    place: str = ""
    """Where they will be; empty: as the pool's settings say."""
    taken: bool = False
    """Of a virtual library: as if somebody had taken them from the doors."""


def send_out(
    path: str, store_root: str | None, home: str | None, out: Outgoing
) -> tuple[list[Any], str]:
    """Bring cartridges to the export slots: as JSON has them, and why not all went, if so.

    What kept the first of them from it is raised: ChangerJam, NeedsCartridge, WrongCartridge.
    """
    with _librarian(library_of(path, store_root, home), "an export") as (library, librarian):
        state = librarian.state
        if out.names:
            wanted = [(find_cartridge(state, name), out.place or "off-site") for name in out.names]
        else:
            wanted = _due(state, volumes_of(path, store_root, home), out)
        if out.taken and library.virtual is None:
            raise WrongUse("this library is a real one", "take the cartridges out by hand")
        doors: list[int] = []
        why_not = ""
        for each, place in wanted:
            try:
                doors.append(librarian.send_out(each, place))
            except (ChangerJam, NeedsCartridge, WrongCartridge) as error:
                if not doors:
                    raise
                why_not = f"{each.name} and what comes behind it stay: {error}"
                break
        if out.taken and library.virtual is not None:
            for door in doors:
                library.virtual.take_out(door)
            librarian.take_inventory()
        return [cartridge_json(state, each) for each, _ in wanted[: len(doors)]], why_not


def export(
    path: str, store_root: str | None, home: str | None, out: Outgoing, as_json: bool
) -> None:
    """As `send_out`, and say it. Exit code LIBRARY when not all of them went."""
    done, why_not = send_out(path, store_root, home, out)
    if as_json:
        print_json(done)
    else:
        _say_sent(done, out.taken)
    if why_not:
        raise ConsoleError(
            why_not, "take out what lies in the export slots, then again", code=ExitCode.LIBRARY
        )


def _say_sent(done: Sequence[Any], taken: bool) -> None:
    for each in done:
        where = each["where"]
        say(f"{each['name']}  {where}" + (f"  take it to {each['note']}" if not taken else ""))
    if not done:
        say("nothing is due to go out")


def _due(
    state: State, volumes: Sequence[tuple[Store, TapeSettings]], out: Outgoing
) -> list[tuple[Cartridge, str]]:
    """The cartridges of a pool, or those whose rotation has come, and where they go. WrongUse."""
    now_ns = time.time_ns()
    pools = [(store.config.uuid, pool) for store, settings in volumes for pool in settings.pools]
    if out.pool is not None:
        return _of_pool(state, pools, out.pool, out.place)
    found: list[tuple[Cartridge, str]] = []
    for uuid, pool in pools:
        weekly = pool.rotation()
        if weekly is not None:
            going = to_send_out(state, uuid, pool.name, weekly, now_ns)
            found += [(each, out.place or _place(pool)) for each in going]
    return found


def _of_pool(
    state: State, pools: Sequence[tuple[str, PoolSettings]], name: str, place: str
) -> list[tuple[Cartridge, str]]:
    """All of a pool: of the volumes that are meant, or of any when no volume here is known."""
    places = {uuid: _place(pool) for uuid, pool in pools if pool.name == name}
    known = {uuid for uuid, _ in pools}
    written = [each for each in state.cartridges.values() if each.archives]
    if not places and (known or all(each.label.pool != name for each in written)):
        names = sorted({pool.name for _, pool in pools} or {each.label.pool for each in written})
        raise WrongUse(f"there is no pool {name}", f"there are: {', '.join(names) or 'none'}")
    return [
        (each, place or places.get(each.label.volume_uuid, "off-site"))
        for each in written
        if each.label.pool == name
        and each.present
        and (not known or each.label.volume_uuid in places)
    ]


def _place(pool: PoolSettings) -> str:
    return pool.rotate.place if pool.rotate else "off-site"
