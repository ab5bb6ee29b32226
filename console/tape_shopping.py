"""`cdpfs tape shopping-list`: which cartridges a restore needs, and where they are.

Duty: ask the books. Nothing is locked or moved, so that it answers while the library works.
"""

from __future__ import annotations

import time

from console.errors import WrongUse
from console.output import print_json, say, time_text
from console.tape_books import cartridge_json, set_json
from console.tape_moving import library_of
from console.volumes import volume_of
from store.errors import NoSuchVolume
from tape.catalogue_file import read_catalogue
from tape.catalogue_state import State
from tape.library import CATALOGUE_NAME
from tape.library import load_settings as load_library
from tape.restore import volume_of as volume_on_tape
from tape.shopping import Shopping, find_set, shopping_text
from timetravel.moment import AtLsn, AtTime, parse_moment


def shopping_list(
    path: str,
    store_root: str | None,
    home: str | None,
    volume: str,
    moment: str,
    pool: str | None,
    as_json: bool,
) -> None:
    """Print what has to be brought, and what is read, to restore a volume as of a moment."""
    place = library_of(path, store_root, home)
    load_library(place)  # NoSuchLibrary is told before the catalogue that is not there either
    state = read_catalogue(place / CATALOGUE_NAME)
    uuid = volume_on_tape(state, volume) if volume else _volume(state, path, store_root, home)
    found = _find(state, uuid, moment, pool)
    if as_json:
        print_json(_json(state, found))
        return
    tape_set = found.tape_set
    say(f"set         {tape_set.set_id[:8]} of the pool {tape_set.pool}, from")
    say(f"            {time_text(tape_set.base_time_ns)} to {time_text(found.reach.last_time_ns)}")
    for part in found.parts:
        count = len(part.archives)
        say(f"read        {shopping_text([part.cartridge])}: {count} archives")
    say(f"bring       {shopping_text(found.missing) or 'nothing: all of it is in the library'}")


def _volume(state: State, path: str, store_root: str | None, home: str | None) -> str:
    """The UUID of the volume that `path` lies in; with a library named in which it has nothing,
    of the only one that is on tape there. NoSuchSet, NoSuchVolume.
    """
    try:
        uuid = volume_of(path, store_root).config.uuid
    except NoSuchVolume:
        if home is None:
            raise
        return volume_on_tape(state, "")
    on_tape = home is None or any(each.volume_uuid == uuid for each in state.sets.values())
    return uuid if on_tape else volume_on_tape(state, "")


def _find(state: State, volume_uuid: str, text: str, pool: str | None) -> Shopping:
    """The set that gives back the moment; of none that is named, its newest barrier."""
    if not text:
        return find_set(state, volume_uuid, pool=pool)
    moment = parse_moment(text, now_ns=time.time_ns(), zone=None)
    if isinstance(moment, AtLsn):
        return find_set(state, volume_uuid, lsn=int(moment.lsn), pool=pool)
    if isinstance(moment, AtTime):
        return find_set(state, volume_uuid, time_ns=int(moment.time_ns), pool=pool)
    raise WrongUse(f"{text} can only be found in the volume", "name a time or an LSN: @15:00")


def _json(state: State, found: Shopping) -> dict[str, object]:
    return {
        "set": set_json(state, found.tape_set),
        "lsn": found.lsn,
        "read": [
            {
                "cartridge": cartridge_json(state, part.cartridge),
                "files": [archive.file for archive in part.archives],
            }
            for part in found.parts
        ],
        "bring": [cartridge_json(state, each) for each in found.missing],
    }
