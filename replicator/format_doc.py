"""Writes docs/wire.md out of the byte tables of what goes to a vault and what it keeps.

    python -m replicator.format_doc            writes the page
    python -m replicator.format_doc --check    exits 1 unless the page is what would be written

A vault keeps an open volume in the files of docs/format.md; the tables here are those beyond it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from replicator.parcel import PARCEL_ENTRY, PARCEL_HEADER
from replicator.sealing import SEALED_TABLES
from replicator.shipment import SHIPMENT_BATCH, SHIPMENT_HEADER
from replicator.vault.sealed_files import ENTRY_TABLES
from store.format import Table
from store.format_doc import keep_page, table_text
from store.key_backup import BACKUP_TABLES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "wire.md"

INTRODUCTION = """\
# What goes to a vault

This page is generated from the code (`python -m replicator.format_doc`); a check in `scripts/check`
compares. Numbers are little-endian. The messages around these bytes are in `replicator/wire.py`,
what they protect in [replication.md](replication.md), and what a vault makes of the shipments of an
open volume in [format.md](format.md): the same journal as at the site.
"""

SHIPMENTS = """\
The unit of transfer: whole batches, consecutive, as the site's indexer committed them. A
shipment's id is the first half of the blake3 digest of all its bytes.
"""

SEALED = """\
A shipment as it is, encrypted by the site. The key of each is HKDF-SHA256 of the sealing key with
the header's salt, and info `cdpfs sealing 1 shipment` followed by the volume's UUID; the nonce is
zero, for that key is used once. The salt is keyed blake3 over fresh entropy, the header and the
plain bytes. A keyed digest is blake3 of the batch's digest, keyed with HKDF-SHA256 of the chain
secret, info `cdpfs sealing 1 chain` and the UUID. A key's id is HKDF-SHA256 of the key, info
`cdpfs sealing 1 id`.
"""

LINES = """\
A vault keeps a line of a sealed volume in `sealed/`: `FIRST-LAST.shipment` holds one shipment as
it arrived, `FIRST-LAST.pack` consecutive ones (LSNs as 16 hexadecimal digits). Both hold entries
back to back. A file appears under its name when it is whole and on disk, and never changes; a
pack is on disk before the files in it go. A file whose LSNs a pack covers, and `*.new`, are what
a crash left, and are dropped.
"""

PARCELS = """\
What `cdpfs replicate export` writes: the header, the description as JSON, then entries, each
followed by its shipment (a sealed one, if the volume is).
"""

BACKUPS = """\
What `cdpfs key show-backup` prints. A line's checksum is the first 20 bits of blake3
over its number (one byte) and its bytes.
"""

SECTIONS: tuple[tuple[str, str, tuple[Table, ...]], ...] = (
    ("Shipments", SHIPMENTS, (SHIPMENT_HEADER, SHIPMENT_BATCH)),
    ("Sealed shipments", SEALED, SEALED_TABLES),
    ("Files of a sealed line", LINES, ENTRY_TABLES),
    ("Parcels", PARCELS, (PARCEL_HEADER, PARCEL_ENTRY)),
    ("Key backups", BACKUPS, BACKUP_TABLES),
)


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, text, tables in SECTIONS:
        parts += [f"## {title}\n", text, *(table_text(table) for table in tables)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    return keep_page(PAGE, render(), "replicator.format_doc", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
