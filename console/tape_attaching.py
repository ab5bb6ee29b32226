"""`cdpfs tape create-library | attach | detach`: which volume has its copies in which library.

Duty: make a library's home; write a volume's `tape.toml` and tell the library's books how long its
pools are kept; say what happens from now on. Nothing here touches a cartridge.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from console.control import STATUS_TIMEOUT_S, connect_if_mounted
from console.errors import WrongUse
from console.output import note, path_text, print_json, say, size_text, time_text
from console.sizes import parse_size
from console.tape_pools import PoolWishes, apply_wishes
from console.volumes import volume_of
from store import durable
from store.holds import drop_hold, read_holds
from store.volume import Store
from tape.alarms import free_cartridges
from tape.archive_writer import printable
from tape.bookkeeping import ends_of_sets
from tape.catalogue import AnyEvent, Attached, Detached, Recycled
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import State
from tape.errors import LibraryBusy, NoSuchLibrary
from tape.inventory import take_inventory
from tape.library import (
    CATALOGUE_NAME,
    Library,
    create_real,
    create_virtual,
    open_library,
)
from tape.library import FILE_NAME as LIBRARY_FILE_NAME
from tape.settings import (
    PoolSettings,
    TapeSettings,
    default_pool,
    drop_settings,
    load_settings,
    save_settings,
)

LEAST_ARCHIVE_BYTES = 16 << 20
"""A batch of the journal can be 8 MiB; with archives that are shorter it may not fit."""
END_S = 60.0
"""A run that is told to end has ended after so long; it brings its cartridges back first."""
LOOK_S = 0.2
_LEFT_FILES = ("tape.status", "tape.wanted")
_STAGE = "tape"


@dataclass(frozen=True)
class LibraryWishes:
    """What a new virtual library is to be like."""

    slots: int
    doors: int
    drives: int
    capacity: str
    block_size: str
    cartridges: int | None = None
    cleaning: int = 1


def create_library(home: str, wishes: LibraryWishes, as_json: bool) -> None:
    """Make a virtual library in a folder."""
    place = Path(os.path.abspath(home))
    settings = create_virtual(
        place,
        slots=wishes.slots,
        doors=wishes.doors,
        drives=wishes.drives,
        capacity_bytes=parse_size(wishes.capacity),
        block_bytes=parse_size(wishes.block_size),
        cartridges=wishes.cartridges,
        cleaning_cartridges=wishes.cleaning,
    )
    CatalogueFile.create(place / CATALOGUE_NAME).close()
    tell_library(place, settings.uuid, as_json)


def describe_library(
    home: str,
    changer: str | None,
    drives: Sequence[str],
    script: str | None,
    block_size: str,
    as_json: bool,
) -> None:
    """Make a folder the home of a real library; its cartridges stay as they are. WrongUse."""
    if not changer or not drives:
        raise WrongUse(
            "a real library has a changer and drives",
            "name both: --changer /dev/sg3 --drive /dev/nst0; `lsscsi -g` lists them",
        )
    place = Path(os.path.abspath(home))
    settings = create_real(
        place,
        changer=os.path.abspath(changer),
        drives=[os.path.abspath(drive) for drive in drives],
        changer_script=os.path.abspath(script) if script else "",
        block_bytes=parse_size(block_size),
    )
    CatalogueFile.create(place / CATALOGUE_NAME).close()
    tell_library(place, settings.uuid, as_json)


def tell_library(home: Path, uuid: str, as_json: bool) -> None:
    """Take a first inventory of a library that was just made, and say what is there."""
    with open_books(home, "its first inventory") as (library, catalogue):
        take_inventory(library, catalogue, time.time_ns())
        free = free_cartridges(catalogue.state, library.settings.cleaning_prefix)
        drives = len(library.drives)
    if as_json:
        print_json({"home": str(home), "uuid": uuid, "drives": drives, "free_cartridges": free})
        return
    say(f"library     {path_text(str(home))}  ({drives} drives, {free} free cartridges)")
    say(f"next        cdpfs tape attach DIR --library {path_text(str(home))}")


@contextmanager
def open_books(home: Path, doing: str) -> Iterator[tuple[Library, CatalogueFile]]:
    """A library and its catalogue, for this process alone. LibraryBusy, NoSuchLibrary."""
    with open_library(home, doing) as library, CatalogueFile.open(library.catalogue) as catalogue:
        yield library, catalogue


@dataclass(frozen=True)
class SealWishes:
    """How the sets are to be encrypted; None leaves it as it is."""

    key_file: str | None = None
    key_backup: str | None = None
    accept_key_loss: bool = False


def attach(
    path: str,
    store_root: str | None,
    home: str | None,
    pools: PoolWishes,
    seal: SealWishes,
    as_json: bool,
) -> None:
    """Have a volume copied to a library from now on, or change how."""
    store = volume_of(path, store_root)
    known = load_settings(store.root)
    settings = _settings(known, home, store)
    _refuse_inside(settings.library, store)
    apply_wishes(settings, pools)
    if seal.key_file is not None:
        settings.seal.key_file = _key_file(settings.seal.key_file, seal)
    # Saved first, as it checks them; a run tells the books what they have not heard.
    save_settings(store.root, settings)
    try:
        _tell_books(store, settings)
    except LibraryBusy as error:
        if known is None:
            drop_settings(store.root)
            raise
        note(f"{error}; its books hear of it when the next run begins")
    _drop_left_holds(store, settings)
    mounted = poke(store)
    if as_json:
        print_json({"library": settings.library, "pools": [pool.name for pool in settings.pools]})
    else:
        _say_attached(store, settings)
    if not mounted:
        directory = path_text(store.config.directory)
        note(f"it is not mounted: it begins with the next mount, or: cdpfs tape spool {directory}")


def _tell_books(store: Store, settings: TapeSettings) -> None:
    """The library's books learn of the volume. LibraryBusy."""
    with open_books(Path(settings.library), f"attaching {store.config.name}") as (library, books):
        books.append(*_attaching(store, settings, books.state))
        archive_bytes = settings.archive_bytes_for(library.capacity_bytes)
        free = free_cartridges(books.state, library.settings.cleaning_prefix)
    _warn(settings, archive_bytes, free)


def _settings(known: TapeSettings | None, home: str | None, store: Store) -> TapeSettings:
    """What is set up already, or the beginning of it. WrongUse."""
    if known is None:
        if home is None:
            raise WrongUse(
                "which library?", "give --library L; make one: cdpfs tape create-library"
            )
        pools = [default_pool("onsite")]
        return TapeSettings(library=os.path.realpath(home), pools=pools)
    if home is not None and os.path.realpath(home) != known.library:
        raise WrongUse(
            f"the volume has its copies in {known.library}",
            f"first: cdpfs tape detach {path_text(store.config.directory)}",
        )
    known.enabled = True
    return known


def _refuse_inside(home: str, store: Store) -> None:
    """What is written to a library below the volume would have to be spooled again. WrongUse."""
    for base in (store.config.directory, store.config.mount_point):
        if Path(home).is_relative_to(os.path.realpath(base)):
            raise WrongUse(
                f"the library {home} lies in the volume itself",
                "make it elsewhere, best on another disk: cdpfs tape create-library L",
            )


def _key_file(known: str, seal: SealWishes) -> str:
    """The key file that is wished for, if it may be used in place of the one that is `known`."""
    from console.keys import checked_for_sealing

    if seal.key_file == "none":
        return ""
    assert seal.key_file is not None
    chosen = checked_for_sealing(seal.key_file, seal.key_backup, seal.accept_key_loss)
    if known and known != chosen:
        note(f"sets that were begun with {path_text(known)} need that key for ever")
    return chosen


def _attaching(store: Store, settings: TapeSettings, state: State) -> list[AnyEvent]:
    """The events: how long each pool is kept, and the ends of sets whose pool is no more."""
    now_ns, uuid = time.time_ns(), store.config.uuid
    events: list[AnyEvent] = [
        Attached(
            time_ns=now_ns,
            volume_uuid=uuid,
            volume_name=store.config.name,
            directory=printable(store.config.directory),
            keep_ns={pool.name: pool.keep_ns for pool in settings.pools},
        )
    ]
    names = {pool.name for pool in settings.pools}
    return events + ends_of_sets(state, uuid, now_ns, names)


def _drop_left_holds(store: Store, settings: TapeSettings | None) -> None:
    """Pools that are no more hold nothing of the journal."""
    wanted = {f"tape-{pool.name}" for pool in settings.pools} if settings else set()
    for name in read_holds(store.root):
        if name.startswith("tape-") and name not in wanted:
            drop_hold(store.root, name)


def poke(store: Store) -> bool:
    """Have the daemon look at the settings; False when the volume is not mounted."""
    control = connect_if_mounted(store)
    if control is None:
        return False
    with control:
        control.call("tape", timeout_s=STATUS_TIMEOUT_S)
    return True


def _say_attached(store: Store, settings: TapeSettings) -> None:
    say(f"volume      {path_text(store.config.directory)}")
    say(f"library     {path_text(settings.library)}")
    for pool in settings.pools:
        say(f"pool        {pool_text(pool)}")
    start = settings.start
    say(
        f"a run       when {size_text(start.staged_bytes)} are not on tape, or something is older"
        f" than {start.age_s / 3600:g} h"
    )
    for window in settings.windows:
        say(f"window      {window.days or 'every day'}  {window.hours or 'all day'}")
    if settings.seal.key_file:
        say(f"sealed      with {path_text(settings.seal.key_file)}")
    say("nothing has been written to a cartridge yet; blank ones get their labels when needed")


def pool_text(pool: PoolSettings) -> str:
    """What becomes of a pool, in one line."""
    text = (
        f"{pool.name}: a new set with a full every {pool.full_every_days} days,"
        f" kept {pool.keep_days} days"
    )
    if pool.rotate is None:
        return f"{text}, stays in the library"
    rotation = pool.rotation()
    following = "" if rotation is None else f", next {time_text(rotation.next(time.time_ns()))}"
    return (
        f"{text}, goes out {pool.rotate.days} {pool.rotate.time} ({pool.rotate.place}{following})"
    )


def _warn(settings: TapeSettings, archive_bytes: int, free: int) -> None:
    if archive_bytes < LEAST_ARCHIVE_BYTES:
        note(
            f"WARNING: archives of {size_text(archive_bytes)} are too short for busy volumes, whose"
            " batches can have 8 MiB; use larger cartridges"
        )
    if free < len(settings.pools):
        note(
            f"WARNING: {free} free cartridges are in the library, for {len(settings.pools)} pools;"
            " put blank ones in: cdpfs tape import"
        )


def detach(path: str, store_root: str | None, give_up: bool, as_json: bool) -> None:
    """Have a volume copied to its library no more. NoSuchLibrary unless it is to be given up."""
    store = volume_of(path, store_root)
    settings = load_settings(store.root)
    if settings is None:
        raise WrongUse(f"{store.config.directory} has no tape library")
    home = Path(settings.library)
    gone = not (home / LIBRARY_FILE_NAME).exists()
    if gone and not give_up:
        raise NoSuchLibrary(
            f"there is no library at {home}",
            "bring it back to where it was (mount its disk); if it is gone for good:"
            " cdpfs tape detach --give-up",
        )
    settings.enabled = False
    save_settings(store.root, settings)
    poke(store)
    freed = [] if gone else _detach_books(store, settings, give_up)
    if gone:
        note(f"there is no library at {path_text(str(home))}: its books could not be told")
    _drop_left_holds(store, None)
    drop_settings(store.root)
    for name in _LEFT_FILES:
        durable.drop(store.root / name)
    durable.drop_tree(store.root / _STAGE)
    if as_json:
        print_json({"library": settings.library, "given_up": freed})
        return
    say(f"detached  {path_text(store.config.directory)}: nothing more of it goes to tape")
    if give_up:
        say(f"given up  {', '.join(freed) or 'nothing'}")
    else:
        say("what is on tape stays and can be restored; its newest whole set is never recycled")


@contextmanager
def _books_once_free(home: Path, doing: str) -> Iterator[CatalogueFile]:
    """The books, when the spooler that was told to end has let go of them. LibraryBusy."""
    until = time.monotonic() + END_S
    while True:
        with ExitStack() as stack:
            try:
                _, catalogue = stack.enter_context(open_books(home, doing))
            except LibraryBusy:
                if time.monotonic() >= until:
                    raise
            else:
                yield catalogue
                return
        time.sleep(LOOK_S)


def _detach_books(store: Store, settings: TapeSettings, give_up: bool) -> list[str]:
    uuid = store.config.uuid
    with _books_once_free(Path(settings.library), f"detaching {store.config.name}") as catalogue:
        now_ns, state = time.time_ns(), catalogue.state
        events = ends_of_sets(state, uuid, now_ns)
        if uuid in state.volumes:
            events.append(Detached(time_ns=now_ns, volume_uuid=uuid))
        if events:
            catalogue.append(*events)
        mine = [
            each
            for each in state.cartridges.values()
            if give_up and each.label.volume_uuid == uuid and not each.recycled_ns
        ]
        for each in mine:
            catalogue.append(Recycled(time_ns=now_ns, label_id=each.label_id))
    return [each.name for each in mine]
