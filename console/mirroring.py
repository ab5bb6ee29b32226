"""`cdpfs replicate mirror`: a sealed volume, opened with its key, in a vault's folder at hand.

Duty: from options to a source of sealed shipments, and what is opened into a line that every
command at a vault can read. Run again it fetches what is new. Blocking.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from console.errors import WrongUse
from console.output import note, path_text, say
from replicator.sealed_source import SealedFolder, SealedLink, SealedSource
from replicator.sealing import open_shipment, read_header
from replicator.settings import LinkSettings, check_url
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.wire import MAIN_LINE
from store.key_file import read_key_file

REPORT_EVERY = 200
"""Shipments between two words on how far it is."""


def mirror(
    volume: str, origin: str, root: str, key_file: str, line: str | None, **link: str | None
) -> None:
    """Fetch what is new of a sealed volume into the mirror at `root`, which is made if need be.

    `link`: the options that LinkSettings has, without the address.
    """
    ring = read_key_file(Path(key_file))
    line = line or MAIN_LINE
    with sealed_vault(*_origin(origin, link), note) as vault:
        source = SealedSource(vault, volume, line, ring)
        held = source.held()
        with contextlib.closing(_mirror_root(Path(root))) as mirrored:
            mirrored.lock()
            open_there = msgspec.structs.replace(held.description, sealed=False)
            mirrored.create_volume(source.site, held.uuid, open_there)
            store = mirrored.create_line(held.uuid, line)
            with contextlib.closing(LineWriter.open(store)) as writer:
                _feed(source, writer, int(held.next_lsn))
                reached = writer.position()[0] - 1
    say(f"mirrored  {path_text(held.description.name)}  up to LSN {reached}  in  {path_text(root)}")
    say(f"  next: cdpfs vault mount --root {path_text(root)} {held.uuid} DIR")
    say(
        f"    or: cdpfs restore PATH --at M --to DEST --root {path_text(root)} --volume {held.uuid}"
    )


def try_key(volume: str | None, origin: str, key_file: str, line: str, **link: str | None) -> None:
    """Open the oldest and the newest shipment of a sealed line. KeyMissing, BadShipment."""
    if volume is None:
        raise WrongUse("which volume is to be tried?", "name it: --volume V")
    ring = read_key_file(Path(key_file))
    with sealed_vault(*_origin(origin, link), note) as vault:
        source = SealedSource(vault, volume, line, ring)
        held = source.held()
        for lsn in sorted({1, max(held.next_lsn - 1, 1)}):
            for data in vault.shipments(held.uuid, line, lsn):
                open_shipment(ring, data)
                header = read_header(data)
                ends = f"LSN {header.first_lsn} to {header.last_lsn}"
                say(f"opens  {ends}, sealed with key {header.key.hex()}")
                break


def _feed(source: SealedSource, writer: LineWriter, end: int) -> None:
    for count, lsn in enumerate(source.feed(writer), 1):
        if count % REPORT_EVERY == 0:
            note(f"LSN {lsn - 1} of {end - 1}")


def _origin(origin: str, link: dict[str, str | None]) -> tuple[str | None, LinkSettings | None]:
    """A vault's folder, or how to get to a vault."""
    if not origin.startswith(("http://", "https://")):
        return origin, None
    names = {key: os.path.abspath(value) for key, value in link.items() if value}
    return None, LinkSettings(url=origin, **names)


@contextlib.contextmanager
def sealed_vault(
    root: str | None, link: LinkSettings | None, say_waiting: Callable[[str], None]
) -> Iterator[SealedLink | SealedFolder]:
    """Where sealed shipments are: a vault's folder, or else a vault to be asked."""
    if root is not None:
        yield SealedFolder(VaultRoot.open(Path(root)))
        return
    assert link is not None
    check_url(link.url)
    if not link.token_file and not link.client_cert:
        raise WrongUse("the vault must know who we are", "give --token-file F or --client-cert F")
    with SealedLink(link, say=say_waiting) as opened:
        yield opened


def _mirror_root(path: Path) -> VaultRoot:
    if (path / "vault.toml").exists():
        return VaultRoot.open(path)
    return VaultRoot.create(path)
