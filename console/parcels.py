"""`cdpfs replicate export | import`: a replica's beginning on the way by disk.

Duty: a parcel from a volume's journal, and a vault's line from a parcel. `import` works on the
vault's folder, with no vault serving it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from console.control import connect_if_mounted
from console.errors import ConsoleError, WrongUse
from console.output import bytes_progress, path_text, say, size_text
from console.volumes import volume_of
from replicator.errors import Refused
from replicator.wire import Position

if TYPE_CHECKING:
    from replicator.vault.root import VaultRoot


def export(path: str, store_root: str | None, to: str, position_file: str | None) -> None:
    """Write what there is, from the vault's position on if one is given, into a file."""
    from replicator.outgoing import Outgoing
    from replicator.parcel import Export
    from replicator.plan import Fork, Send, UpToDate
    from replicator.sealer import sealer_of
    from replicator.sender import description_of
    from replicator.settings import load_settings
    from store.journal import Journal

    store = volume_of(path, store_root)
    settings = load_settings(store.root)
    control = connect_if_mounted(store)
    if control is not None:
        with control:
            control.call("sync")  # the last second is not in the journal yet
    with Journal(store) as journal:
        outgoing = Outgoing(store, journal, sealer_of(settings, store.uuid), beside=True)
        step = outgoing.step_from(_position(position_file))
        if isinstance(step, UpToDate):
            why = "the vault has everything already" if position_file else "the history is empty"
            raise ConsoleError(f"there is nothing to export: {why}")
        if not isinstance(step, Send):
            what = "another history" if isinstance(step, Fork) else "ops that are no longer kept"
            raise ConsoleError(f"the position in {position_file} is of {what}")
        last = journal.indexed_lsn
        total = outgoing.waiting_bytes(step.first_lsn)
        with bytes_progress() as progress:
            task = progress.add_task("exporting", total=total)
            work = Export(Path(to), outgoing, store.uuid, description_of(store, settings))
            work.run(
                step.first_lsn,
                last,
                lambda raw_bytes: progress.advance(task, raw_bytes),
            )
    say(
        f"exported  LSN {step.first_lsn} to {last}  to  {path_text(to)}  "
        f"({size_text(os.path.getsize(to))})"
    )


def _position(position_file: str | None) -> Position:
    """Where the vault stands; at the beginning when nothing is given."""
    if position_file is None:
        return Position(line="main", next_lsn=1, digest="0" * 64, visible_lsn=0)
    try:
        return msgspec.json.decode(Path(position_file).read_bytes(), type=Position)
    except msgspec.MsgspecError as error:
        raise WrongUse(
            f"{position_file} holds no vault's position: {error}",
            "at the vault, `cdpfs replicate import` writes it, with --position-to F",
        ) from error


def _check_site(vault: VaultRoot, name: str) -> None:
    """Refused unless the vault knows it: a volume stays the site's under whose name it came."""
    from replicator.vault.sites import Sites

    sites = Sites(vault.sites_dir)
    known = [each for each in sites.names() if sites.get(each).kind == "site"]
    if name not in known:
        hint = f"name one of: {', '.join(known)}" if known else "let it in first"
        raise Refused(
            f"no site is called {name}", f"{hint}; or: cdpfs vault add-site {name} --root R"
        )


def import_parcel(file_name: str, root: str, site: str, line: str, position_to: str | None) -> None:
    """Take a parcel into a vault's folder; what is held already is passed over."""
    from replicator.parcel import read_head, read_shipments
    from replicator.vault.line import open_writer
    from replicator.vault.root import VaultRoot

    vault = VaultRoot.open(Path(root))
    with contextlib.closing(vault), open(file_name, "rb") as file, bytes_progress() as progress:
        vault.lock()
        _check_site(vault, site)
        head = read_head(file)
        uuid = head.volume.hex()
        vault.create_volume(site, uuid, head.description)
        with contextlib.closing(open_writer(vault, uuid, line)) as writer:
            task = progress.add_task("importing", total=os.path.getsize(file_name))
            for found in read_shipments(file):
                if found.data and found.last_lsn >= writer.position()[0]:
                    writer.take(found.data)
                progress.update(task, completed=file.tell())
            next_lsn, digest = writer.position()
    if position_to is not None:
        position = Position(line=line, next_lsn=next_lsn, digest=digest.hex(), visible_lsn=0)
        Path(position_to).write_bytes(msgspec.json.encode(position))
    say(f"imported  volume {uuid}, up to LSN {next_lsn - 1}, for site {site}")
