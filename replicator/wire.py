"""The messages between a site and its vault, and the limits on them. Pure; any thread; no I/O.

HTTP/1.1; JSON bodies but for shipments and file content. Every request carries `PROTOCOL_HEADER`
and `Authorization: Bearer TOKEN`; every refusal has a `Refusal` as its body.

    GET  /v1/hello                                   Hello
    PUT  /v1/volumes/UUID            Description     Position: the volume exists from now on
    GET  /v1/volumes/UUID/position[?line=L]          Position
    PUT  /v1/volumes/UUID/shipments/ID[?line=L&after=ID]
                                                     bytes of a shipment from `Content-Range` on
                                                     200, 202: Position; 409: gap or fork
    GET  /v1/volumes/UUID/lines                      Lines
    POST /v1/volumes/UUID/common[?line=L]  Marks     Common: how far the histories are the same
    POST /v1/volumes/UUID/lines      NewLine         Position of the line; 503 while it is made

A shipment is resumed at the byte that `Position.partial` names. `ID` is `shipment_id` of all its
bytes, so that what arrives in pieces is checked as a whole.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from blake3 import blake3

PROTOCOL = 1
"""Version of these messages; an end refuses another one by name."""

PROTOCOL_HEADER = "cdpfs-protocol"

MAX_SHIPMENT_BYTES = 64 << 20
"""Bytes of a whole shipment on the wire."""

MAX_SHIPMENT_RAW_BYTES = 256 << 20
"""Metadata and payload of all its batches; nothing is decoded that would be more."""

MAX_SHIPMENT_BATCHES = 4096

MAX_MESSAGE_BYTES = 1 << 20
"""Of a JSON body."""

MAX_MARKS = 256
"""Marks in one question for what two histories have in common."""

MAIN_LINE = "main"
"""Name of a volume's first line of history; a fork gets a name of its own."""

# `\Z`, not `$`: the latter lets a newline pass at the end.
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
LineName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
ShipmentId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
LsnNumber = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Partial(msgspec.Struct, kw_only=True, frozen=True):
    """A shipment of which the vault holds a beginning."""

    shipment: ShipmentId
    received_bytes: int
    total_bytes: int


class Position(msgspec.Struct, kw_only=True, frozen=True):
    """What a vault holds of a line of a volume. It is read from the vault's journal."""

    line: LineName
    next_lsn: LsnNumber
    """The LSN that it expects; everything before it is on its disk."""
    digest: Hex32
    """Digest, in the site's chain, of the batch that ends before `next_lsn`; zeros for none."""
    visible_lsn: LsnNumber
    """The barrier up to which its readers see; at most `next_lsn` - 1."""
    partial: Partial | None = None


class Mark(msgspec.Struct, kw_only=True, frozen=True):
    """The end of a batch of a history. The digest is that of all of it up to there."""

    lsn: LsnNumber
    digest: Hex32


class Marks(msgspec.Struct, kw_only=True, frozen=True):
    """Which of these is in a line's history?"""

    marks: Annotated[list[Mark], msgspec.Meta(max_length=MAX_MARKS)]


class Common(msgspec.Struct, kw_only=True, frozen=True):
    """The newest of the marks that is; 0: none."""

    lsn: LsnNumber


class Origin(msgspec.Struct, kw_only=True, frozen=True):
    """Where a line of history parts from another one. Up to `lsn` both are the same."""

    parent: LineName
    lsn: LsnNumber
    digest: Hex32
    time_ns: LsnNumber
    """Of the last op that they share; 0 when they share none."""
    made_ns: LsnNumber
    """When the line was made, by the vault's clock."""


class LineInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One line of a volume."""

    line: LineName
    next_lsn: LsnNumber
    origin: Origin | None = None
    """None: of the first line."""


class NewLine(msgspec.Struct, kw_only=True, frozen=True):
    """A line that is to begin where the history of `parent` has this mark (LSN 0: at nothing).

    `name` is a proposal: the vault appends a number when it is taken.
    """

    parent: LineName
    lsn: LsnNumber
    digest: Hex32
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,55}\Z")]


class Hello(msgspec.Struct, kw_only=True, frozen=True):
    """How a vault introduces itself."""

    protocol: int
    vault: str
    """Its id, which stays the same for ever."""
    site: str
    """The name under which the asking site is known."""
    time_ns: int
    max_shipment_bytes: int


class Description(msgspec.Struct, kw_only=True, frozen=True):
    """What a site says of a volume when it is to be kept at the vault."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    directory: Annotated[str, msgspec.Meta(max_length=16384)]
    created_ns: LsnNumber
    quiet_s: float = 2.0
    point_limit_s: float = 60.0
    sealed: bool = False
    """Shipments are encrypted with a key that the vault does not have."""


class Lines(msgspec.Struct, kw_only=True, frozen=True):
    """A volume and all its lines, the first one first."""

    site: str
    description: Description
    lines: list[LineInfo]


class Refusal(msgspec.Struct, kw_only=True, frozen=True):
    """Why a request was refused. `kind` is the name of the error class."""

    kind: str
    message: str
    hint: str = ""
    position: Position | None = None
    """With a gap or a fork: what the vault holds."""


def shipment_id(data: bytes) -> str:
    """The name of a shipment: the first half of its blake3 digest, in hexadecimal digits."""
    return blake3(data).hexdigest()[:32]
