"""Which past a command reads: of a volume here, of a vault's folder, or of a vault over a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from console.errors import WrongUse
from console.past import Past
from console.vault_options import VaultSource

if TYPE_CHECKING:
    from console.remote_past import RemotePast

AnyPast: TypeAlias = "Past | RemotePast"


def open_past(
    path: str, store: str | None, source: VaultSource | None, limit_s: float | None = None
) -> AnyPast:
    """The history of the volume that a path lies in, wherever that is kept. A context manager."""
    if source is None:
        return Past(path, store, limit_s)
    if store is not None or (source.root is not None and source.url is not None):
        raise WrongUse(
            "a volume is read from one place", "leave all but one away: --store, --root, --from"
        )
    if source.root is None:
        from console.remote_past import RemotePast  # it takes long to load

        return RemotePast(path, source, limit_s)
    from console.vault_mounting import replica_store

    if source.volume is None:
        raise WrongUse("--root is a vault of many volumes", "name one: --volume V")
    found = replica_store(Path(source.root), source.volume, source.line)
    return Past(path, str(found.root), limit_s)
