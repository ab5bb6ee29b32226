"""How the lines of a vault are, for lists and metrics.

Duty: read what is on disk; a line that can't be read is a finding, not an error. Blocking; one
thread at a time. It changes nothing, and works beside the process that serves as well as in it.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from replicator.errors import ReplicationError
from replicator.vault import sealed_files
from replicator.vault.lines import read_origin
from replicator.vault.root import VaultRoot, Volume
from replicator.wire import Origin
from store.errors import StoreError
from store.types import Lsn, TimeNs
from store.volume import Store
from timetravel.head import HeadTracker
from timetravel.standing import BarrierSettings


class LineState(NamedTuple):
    """One line of one volume, as far as it can be read."""

    volume: Volume
    line: str
    next_lsn: Lsn = Lsn(0)
    """0: it can't be read."""
    visible_lsn: Lsn = Lsn(0)
    last_op_ns: TimeNs = TimeNs(0)
    """0: there is none, or the volume is sealed."""
    silent_s: float | None = None
    """Since the last shipment; None: there was none."""
    stored_bytes: int = 0
    origin: Origin | None = None
    """Where it parts from another line."""
    trouble: str = ""
    """Why it can't be read; empty when all is well."""
    hint: str = ""


class Survey:
    """Looks at the lines of a vault, again and again."""

    def __init__(self, root: VaultRoot) -> None:
        self._root = root
        self._heads: dict[tuple[str, str], HeadTracker] = {}

    def lines(self) -> list[LineState]:
        """Every line of every volume."""
        found = []
        for uuid in self._root.volumes():
            volume = self._root.volume(uuid)
            found += [self.line(volume, line) for line in self._root.lines(uuid)]
        return found

    def line(self, volume: Volume, line: str) -> LineState:
        """One line."""
        state = LineState(volume, line)
        try:
            store = self._root.store(volume.uuid, line)
            state = state._replace(origin=read_origin(store))
            if volume.description.sealed:
                return _sealed(state, store)
            return self._open(state, store)
        except (ReplicationError, StoreError, OSError) as error:
            verify = f"cdpfs vault verify {volume.uuid} --root {self._root.path}"
            return state._replace(trouble=str(error), hint=getattr(error, "hint", verify))

    def _open(self, state: LineState, store: Store) -> LineState:
        key = state.volume.uuid, state.line
        if key not in self._heads:
            settings = BarrierSettings(store.config.point_limit_s, store.config.quiet_s)
            self._heads[key] = HeadTracker(settings)
        with self._root.journal(*key).snapshot() as snapshot:
            stats, last = snapshot.stats(), snapshot.last()
            stored_bytes = stats["segment_bytes"] + stats["index_bytes"]
            if last is None:
                return state._replace(next_lsn=Lsn(1), stored_bytes=stored_bytes)
            return state._replace(
                next_lsn=Lsn(last.lsn + 1),
                visible_lsn=self._heads[key].advance(snapshot).lsn,
                last_op_ns=last.time_ns,
                # The index was last committed when the last shipment was taken in.
                silent_s=_since(os.stat(store.index_dir / "data.mdb").st_mtime_ns),
                stored_bytes=stored_bytes,
            )


def _sealed(state: LineState, store: Store) -> LineState:
    """Of a sealed volume its vault knows only how long it is."""
    held = sealed_files.held(store)
    return state._replace(
        next_lsn=held.next_lsn,
        silent_s=_since(held.last_arrived_ns) if held.shipments else None,
        stored_bytes=held.size_bytes,
    )


def _since(time_ns: int) -> float:
    return max(0.0, time.time() - time_ns / 1e9)


def used_bytes(root: VaultRoot, site: str) -> int:
    """What the histories of a site's volumes take, without the indexes. Blocking."""
    used = 0
    for uuid in root.volumes():
        if root.volume(uuid).site != site:
            continue
        for line in root.lines(uuid):
            store = root.store(uuid, line)
            for folder in (store.segments_dir, sealed_files.sealed_dir(store)):
                if folder.is_dir():
                    used += sum(entry.stat().st_size for entry in os.scandir(folder))
    return used
