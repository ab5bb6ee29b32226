"""Holds: up to where each consumer of the journal has got. What lies behind it is still needed.

Duty: one small file for each consumer, `STORE/holds/NAME`, with the newest LSN that it is done
with. Blocking calls; any thread; each hold has one writer. Retention reads them.
"""

from __future__ import annotations

import re
from pathlib import Path

from store import durable
from store.types import Lsn

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MAX_FILE_BYTES = 32


def place_hold(store_root: Path, name: str, lsn: Lsn) -> None:
    """The consumer `name` is done with every op up to `lsn`; durable when it returns."""
    assert _NAME.fullmatch(name), name
    folder = store_root / "holds"
    durable.make_dir(folder)
    durable.write_file_atomically(folder / name, b"%d\n" % lsn)


def drop_hold(store_root: Path, name: str) -> None:
    """The consumer `name` is no more; a missing hold is fine."""
    assert _NAME.fullmatch(name), name
    if (store_root / "holds").is_dir():
        durable.unlink(store_root / "holds" / name)


def read_holds(store_root: Path) -> dict[str, Lsn]:
    """All holds by name. One that can't be read counts as 0: nothing may go."""
    folder = store_root / "holds"
    if not folder.is_dir():
        return {}
    names = sorted(entry.name for entry in folder.iterdir() if _NAME.fullmatch(entry.name))
    return {name: _read(folder / name) for name in names}


def _read(path: Path) -> Lsn:
    try:
        with path.open("rb") as file:
            return Lsn(max(int(file.read(_MAX_FILE_BYTES)), 0))
    except (OSError, ValueError):
        return Lsn(0)
