"""`cdpfs tape recover`: a volume whose machine is gone comes back from cartridges.

Duty: the library and its books, which are written anew if they are lost, and what comes next. What
is done is `tape/recover.py`'s.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from console.exit_codes import ExitCode
from console.output import note, path_json, print_json, say
from console.recovered import exit_code, fields_of, progress_shown, show, wish_for
from console.tape_restoring import open_librarian, write_books_anew
from store.key_file import read_key_file
from store.volume import register
from tape.catalogue_file import CatalogueFile, read_catalogue
from tape.errors import DamagedCatalogue, TapeError
from tape.library import CATALOGUE_NAME, load_settings
from tape.recover import Copy, recover
from tape.robot import Robot
from timetravel.recovery import Recovered


@dataclass(frozen=True)
class Request:
    """The arguments of `cdpfs tape recover`."""

    directory: str
    home: Path
    copy: Copy
    at: str = ""
    store: str | None = None
    keep_tree: bool = False
    accept_failures: bool = False
    key_file: str = ""


def run(request: Request, as_json: bool) -> ExitCode:
    """Recover, or go on with it, and print what was done."""
    wish = wish_for(
        request.directory,
        request.store,
        request.at,
        keep_tree=request.keep_tree,
        accept_failures=request.accept_failures,
    )
    ring = read_key_file(Path(request.key_file)) if request.key_file else None
    with progress_shown() as progress:
        done = recover(
            lambda: _library(request.home),
            request.copy,
            wish,
            ring=ring,
            say=note,
            progress=progress,
        )
    register(done.store)
    if as_json:
        print_json(fields_of(done) | {"library": path_json(os.fsencode(request.home))})
    else:
        show(done, "the cartridges do not have whole")
        if done.ready:
            _show_next(done, request)
    return exit_code(done)


@contextlib.contextmanager
def _library(home: Path) -> Iterator[tuple[CatalogueFile, Robot]]:
    """The library with books; those that are lost, or know of nothing yet, are written first."""
    load_settings(home)  # NoSuchLibrary is told before the catalogue that is not there either
    try:
        known = bool(read_catalogue(home / CATALOGUE_NAME).sets)
    except DamagedCatalogue as error:
        note(f"cdpfs: {error}: every cartridge in the library is read")
        known = False
    if not known:
        write_books_anew(home)
    with open_librarian(home, "recovering a volume") as (catalogue, librarian):
        yield catalogue, librarian.robot


def _show_next(done: Recovered, request: Request) -> None:
    where = shlex.quote(done.store.config.directory)
    copies = ",".join(_pools(request.home, done.store.config.uuid))
    seal = f" --seal {shlex.quote(request.key_file)} --key-backup B" if request.key_file else ""
    say()
    say("Go on there:")
    say(f"  cdpfs mount {where}")
    say(
        f"  cdpfs tape attach {where} --library {shlex.quote(str(request.home))}"
        + (f" --copies {copies}" if copies else "")
        + seal
    )
    say("It begins new sets. The lost machine must never write to that library again.")


def _pools(home: Path, volume_uuid: str) -> list[str]:
    """The pools that the volume had copies in; none when the books can't be read just now."""
    try:
        sets = read_catalogue(home / CATALOGUE_NAME).sets.values()
    except TapeError:
        return []
    return sorted({each.pool for each in sets if each.volume_uuid == volume_uuid})
