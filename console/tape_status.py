"""`cdpfs tape status`: a library and a volume's copies in it, from the books.

Duty: put together what the catalogue, the settings and the spooler say. No lock is taken and no
cartridge is moved, so that it answers while the library works.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from console.output import path_text, print_json, say, size_text, time_text
from console.spooling import spooling_of
from console.tape_books import (
    age_text,
    cartridge_json,
    set_json,
    show_cartridges,
    stranger_json,
    when_json,
)
from console.tape_moving import library_of, volumes_of
from store.holds import read_holds
from store.volume import Store
from tape.alarms import free_cartridges, library_alarms
from tape.catalogue_file import read_catalogue
from tape.catalogue_state import State
from tape.library import CATALOGUE_NAME, LibrarySettings
from tape.library import load_settings as load_library
from tape.reach import reach_of
from tape.retention import Retention
from tape.settings import PoolSettings, TapeSettings, load_settings
from tape.shopping import shopping_text, to_bring_back


def show_status(
    path: str, store_root: str | None, home: str | None, as_json: bool, prometheus: bool = False
) -> None:
    """Print how it stands: of a library, and of the volume that `path` lies in."""
    place = library_of(path, store_root, home)
    store = _volume(path, store_root, home)
    library = load_library(place)
    state = read_catalogue(place / CATALOGUE_NAME)
    gathered = _gather(place, library, state, store)
    if prometheus:
        from console.tape_metrics import metrics_text

        print(metrics_text(gathered), end="")
    elif as_json:
        print_json(gathered)
    else:
        _show(gathered, state)


def _volume(path: str, store_root: str | None, home: str | None) -> Store | None:
    """The volume; None when only a library was asked for, or several volumes share it."""
    meant = volumes_of(path, store_root, home)
    return meant[0][0] if len(meant) == 1 else None


def _gather(
    place: Path, library: LibrarySettings, state: State, store: Store | None
) -> dict[str, Any]:
    now_ns = time.time_ns()
    retention = Retention(state, now_ns)
    settings = load_settings(store.root) if store is not None else None
    min_scratch = settings.min_scratch if settings is not None else 1
    volume = None
    if store is not None and settings is not None:
        volume = _volume_json(store, settings, state, now_ns)
    alarms = library_alarms(state, min_scratch, library.cleaning_prefix, now_ns)
    if volume is not None:
        alarms += [each for each in volume["alarms"] if each not in alarms]
    return {
        "library": {"home": str(place), "kind": library.kind, "uuid": library.uuid},
        "volume": volume,
        "volumes": [
            {
                "uuid": uuid,
                "name": each.name,
                "directory": each.directory,
                "attached": each.attached,
            }
            for uuid, each in state.volumes.items()
        ],
        "cartridges": [
            cartridge_json(state, each, retention) for each in state.cartridges.values()
        ],
        "others": [stranger_json(each) for each in state.strangers.values()],
        "free_cartridges": free_cartridges(state, library.cleaning_prefix),
        "recyclable": [each.name for each in retention.recyclable()],
        "take_out": [each.name for each in state.cartridges.values() if each.place == "door"],
        "bring_back": [each.name for each in to_bring_back(state, now_ns)],
        "drives": [
            {
                "number": number,
                "faults": each.faults,
                "last_fault": each.last_fault,
                "fault": when_json(each.fault_ns),
                "cleanings": each.cleanings,
                "cleaned": when_json(each.cleaned_ns),
            }
            for number, each in sorted(state.drives.items())
        ],
        "cleaning_uses": dict(sorted(state.cleanings.items())),
        "alarms": alarms,
    }


def _volume_json(store: Store, settings: TapeSettings, state: State, now_ns: int) -> dict[str, Any]:
    said = spooling_of(store) or {}
    holds = read_holds(store.root)
    spooled = {each["pool"]: each for each in said.get("pools") or []}
    return {
        "name": store.config.name,
        "directory": store.config.directory,
        "uuid": store.config.uuid,
        "enabled": settings.enabled,
        "state": said.get("state") or "down",
        "doing": said.get("doing") or "",
        "error": said.get("error") or "",
        "hint": said.get("hint") or "",
        "sealed": bool(settings.seal.key_file),
        "pools": [
            _pool_json(store, pool, state, now_ns, spooled.get(pool.name) or {}, holds)
            for pool in settings.pools
        ],
        "alarms": [str(each) for each in said.get("alarms") or []],
    }


def _pool_json(
    store: Store,
    pool: PoolSettings,
    state: State,
    now_ns: int,
    spooled: dict[str, Any],
    holds: dict[str, Any],
) -> dict[str, Any]:
    sets = state.sets_of(store.config.uuid, pool.name)
    reaches = [found for each in sets if (found := reach_of(state, each)) is not None]
    newest = max(reaches, key=lambda each: each.barrier_lsn, default=None)
    oldest = min(reaches, key=lambda each: each.base_lsn, default=None)
    rotation = pool.rotation()
    return {
        "pool": pool.name,
        "keep_days": pool.keep_days,
        "full_every_days": pool.full_every_days,
        "next_rotation": when_json(rotation.next(now_ns)) if rotation is not None else None,
        "usable": newest is not None,
        "barrier_lsn": newest.barrier_lsn if newest else None,
        "barrier_time": when_json(newest.barrier_time_ns) if newest else None,
        "barrier_age_s": round((now_ns - newest.barrier_time_ns) / 1e9, 3) if newest else None,
        "barrier_time_ns": newest.barrier_time_ns if newest else 0,
        "oldest_time": when_json(oldest.base_time_ns) if oldest else None,
        "lag_s": spooled.get("lag_s"),
        "waiting_bytes": spooled.get("waiting_bytes"),
        "rests": spooled.get("rests") or "",
        "error": spooled.get("error") or "",
        "hint": spooled.get("hint") or "",
        "hold": holds.get(f"tape-{pool.name}"),
        "sets": [set_json(state, each) for each in sets],
    }


def _show(gathered: dict[str, Any], state: State) -> None:
    library, volume = gathered["library"], gathered["volume"]
    say(f"library     {path_text(library['home'])}  ({library['kind']})")
    if volume is not None:
        _show_volume(volume)
    say(
        f"free        {gathered['free_cartridges']} cartridges, and"
        f" {len(gathered['recyclable'])} that may be recycled"
    )
    by_name = {each.name: each for each in state.cartridges.values()}
    if gathered["take_out"]:
        say(f"take out    {shopping_text(by_name[name] for name in gathered['take_out'])}")
    if gathered["bring_back"]:
        say(f"bring back  {shopping_text(by_name[name] for name in gathered['bring_back'])}")
    say()
    show_cartridges(state)
    for alarm in gathered["alarms"]:
        say(f"ALARM       {alarm}")


def _show_volume(volume: dict[str, Any]) -> None:
    say(f"volume      {path_text(volume['directory'])}")
    doing = f", {volume['doing']}" if volume["doing"] else ""
    say(f"spooler     {volume['state']}{doing}")
    if volume["error"]:
        say(f"            {volume['error']}")
        say(f"            next: {volume['hint']}")
    for pool in volume["pools"]:
        if pool["usable"]:
            when = time_text(pool["barrier_time_ns"])
            on_tape = f"barrier of {when}, {age_text(pool['barrier_time_ns'])}"
        else:
            on_tape = "no whole set yet"
        say(f"pool        {pool['pool']}: {on_tape}; {len(pool['sets'])} sets")
        if pool["waiting_bytes"]:
            say(f"            {size_text(pool['waiting_bytes'])} wait")
        if pool["rests"]:
            say(f"            {pool['rests']}")
        if pool["next_rotation"]:
            say(f"            goes out {pool['next_rotation'][:16].replace('T', ' ')}")
