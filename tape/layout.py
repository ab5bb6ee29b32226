"""What is on a cartridge: the label, the archives, and their first and last members. Pure.

A cartridge is a row of tar archives with a filemark behind each, in blocks of `Label.block_bytes`;
the last block of an archive is filled up with zeros, as tar does. File 0 is the label archive.

    file 0     label     README, cdpfs/label.json
    file 1…    archives  cdpfs/archive.json, members by kind, cdpfs/end.json

Kinds of archive:

    full       a part of a synthetic full: pax entries VOLUME/PATH with everything that tar
               restores; what only a store needs stands in the pax record `comment`, about which
               no tar complains
    log        whole batches of the journal, cdpfs/batches/FIRST-LAST.batch (20 digits each)
    catalogue  cdpfs/catalogue.json: what the library knew when it was written

A sealed archive has the same first and last member, and between them `cdpfs/sealed/NUMBER`: the
whole plain archive, head and end too, encrypted in chunks (`tape/sealing.py`).

A set is a full at a barrier, in one archive or several, and the log behind it up to a barrier. An
archive never spans cartridges: one that did not fit is written again, whole, on the next.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

FORMAT_VERSION: Final = 1
"""Of everything here; what is newer is refused by name."""

DEFAULT_BLOCK_BYTES: Final = 256 << 10
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 512, 1 << 20
"""Blocks are multiples of 512 bytes, as tar has them."""

LABEL_NAME: Final = "cdpfs/label.json"
README_NAME: Final = "README"
HEAD_NAME: Final = "cdpfs/archive.json"
END_NAME: Final = "cdpfs/end.json"
BATCH_FOLDER: Final = "cdpfs/batches"
SOCKET_FOLDER: Final = "cdpfs/sockets"
"""Of a full: a member for each socket, which tar itself can't make."""
SEALED_FOLDER: Final = "cdpfs/sealed"
"""Of a sealed archive: its members, one for each chunk."""
STATE_NAME: Final = "cdpfs/state"
"""Of the last archive of a full: what `store.baseline` needs beside the tree."""
CATALOGUE_NAME: Final = "cdpfs/catalogue.json"

Uuid = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
"""32 hexadecimal digits."""
PoolName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]
Barcode = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.-]{0,64}$")]
"""Empty for a cartridge whose barcode can't be read."""
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""BLAKE3, in hexadecimal digits."""
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Kind = Literal["full", "log", "catalogue"]


class Label(msgspec.Struct, kw_only=True, frozen=True):
    """Who a cartridge is. A cartridge that is recycled gets a new one."""

    format_version: int = FORMAT_VERSION
    label_id: Uuid
    barcode: Barcode
    pool: PoolName
    library_id: Uuid
    volume_uuid: Uuid
    volume_name: Text
    block_bytes: Annotated[int, msgspec.Meta(ge=MIN_BLOCK_BYTES, le=MAX_BLOCK_BYTES)]
    created_ns: Count


class ArchiveHead(msgspec.Struct, kw_only=True, frozen=True):
    """The first member of an archive: what it is."""

    format_version: int = FORMAT_VERSION
    set_id: Uuid
    sequence: Count
    """Within the set, from 0, without gaps, over all kinds but `catalogue`."""
    kind: Kind
    volume_uuid: Uuid
    volume_name: Text
    directory: Text
    """The protected tree's path, undecodable bytes as surrogates in `\\\\udcXX` form."""
    first_lsn: Count
    """Of a log: the first LSN in it. Of a full: its barrier, like `last_lsn`."""
    last_lsn: Count
    time_ns: Count
    """Of a full: of its barrier. Of a log: of its last op."""
    created_ns: Count
    part: Count = 0
    """Of a full in several archives: which, from 0."""
    key_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Of a sealed archive: which key opens it; empty for none."""
    salt: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """Of a sealed archive: what makes its own key out of that one."""
    settings: dict[str, object] = {}
    """Of a full: what of `volume.toml` a rebuilt store takes over."""


class Cursor(msgspec.Struct, kw_only=True, frozen=True):
    """Where an archive of a full begins, in the view that the full is made from.

    Numbers only: of a sealed set it gives away no name.
    """

    directory: Count
    """NodeId of the directory."""
    entry: Count
    """Which of its entries, in the order of their names, from 0."""
    part: Count = 0
    """Of a file that is cut into parts: which part, from 0."""


class ArchiveEnd(msgspec.Struct, kw_only=True, frozen=True):
    """The last member of an archive: without it the archive was not finished."""

    members: Count
    """Before this one, `cdpfs/archive.json` included."""
    content_bytes: Count
    """Of the archive before this member's header."""
    digest: Digest
    """BLAKE3 of these bytes."""
    last_part: bool = False
    """Of a full: its last archive."""
    next: Cursor | None = None
    """Of a full: where its next archive begins; None for the last."""
    needs_lsn: Count = 0
    """Of the last archive of a full: the set is of use only when its log reaches this LSN."""
    barrier_lsn: Count = 0
    """The newest barrier in it; 0 for none."""
