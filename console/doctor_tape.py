"""What `cdpfs doctor` looks at in a volume that has a tape library.

Duty: checks of the settings, of the library's books and of the key file. Nothing is locked and no
cartridge is touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from console.doctor import FAIL, OK, WARN, Finding, key_file_finding
from console.spooling import spooling_of
from store.errors import StoreError
from store.volume import Store
from tape.alarms import library_alarms
from tape.catalogue_file import read_catalogue
from tape.errors import TapeError
from tape.library import CATALOGUE_NAME
from tape.library import load_settings as load_library
from tape.reach import newest_barrier
from tape.settings import TapeSettings, load_settings


def tape_findings(store: Store) -> Iterator[Finding]:
    """Checks of one volume's library; none when it has none."""
    check = "tape"
    try:
        settings = load_settings(store.root)
    except TapeError as error:
        yield Finding(FAIL, check, str(error), error.hint)
        return
    if settings is None:
        return
    if not settings.enabled:
        yield Finding(OK, check, "switched off")
        return
    if settings.seal.key_file:
        yield key_file_finding("tape key", settings.seal.key_file)
    yield from _library(store, settings)
    yield _spooler(store)


def _library(store: Store, settings: TapeSettings) -> Iterator[Finding]:
    """The books: readable, and what they say that a person should look at."""
    check, home = "tape library", Path(settings.library)
    try:
        library = load_library(home)
        state = read_catalogue(home / CATALOGUE_NAME)
    except (TapeError, StoreError) as error:
        yield Finding(FAIL, check, str(error), error.hint)
        return
    yield Finding(OK, check, f"{home}, {len(state.cartridges)} cartridges on the books")
    for pool in settings.pools:
        newest = newest_barrier(state, state.sets_of(store.config.uuid, pool.name))
        if newest is None:
            yield Finding(WARN, check, f"no whole set in the pool {pool.name}", _SPOOL)
    for alarm in library_alarms(
        state, settings.min_scratch, library.cleaning_prefix, time.time_ns()
    ):
        yield Finding(WARN, check, alarm, "docs/tape.md tells what to do")


def _spooler(store: Store) -> Finding:
    check = "tape spooler"
    said = spooling_of(store) or {}
    state, error, hint = str(said.get("state")), said.get("error"), str(said.get("hint") or "")
    if error:
        return Finding(FAIL, check, f"{state}: {error}", hint or f"see {store.log_dir}")
    if state == "down":
        return Finding(WARN, check, "nothing spools it at the moment", _SPOOL)
    return Finding(OK, check, state)


_SPOOL = "it begins with the next mount, or: cdpfs tape spool DIR"
