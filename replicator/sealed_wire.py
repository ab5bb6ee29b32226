"""How a sealed volume is fetched from its vault. Pure; any thread; no I/O.

    GET  /v1/sealed                                          list of SealedVolume: those that who
                                                             asks may read
    GET  /v1/volumes/UUID/sealed?line=L&from=LSN&offset=N    sealed shipments, back to back

    GET  /v1/volumes/UUID/sealed/ends?line=L&after=LSN&upto=LSN
                                                             ShipmentEnds

The first shipment is the one that holds `from`, without its first `offset` bytes: so a client whose
line broke goes on at the next byte. Each says in its header how long it is. An answer has some
MiB; none at all means that nothing follows.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from replicator.wire import Description, Hex32, LineName, LsnNumber, Uuid

ANSWER_BYTES = 8 << 20
"""An answer ends with the shipment with which it has come to this."""


MAX_ENDS = 64


class ShipmentEnds(msgspec.Struct, kw_only=True, frozen=True):
    """Where some of the shipments of a sealed line end: at most MAX_ENDS, spread over the range.

    None: no shipment ends there. Two histories of a sealed volume can part at these LSNs only.
    """

    ends: Annotated[list[LsnNumber], msgspec.Meta(max_length=MAX_ENDS)]


class SealedLineState(msgspec.Struct, kw_only=True, frozen=True):
    """Where a line of a sealed volume ends."""

    line: LineName
    next_lsn: LsnNumber
    digest: Hex32
    """The keyed digest before it."""


class SealedVolume(msgspec.Struct, kw_only=True, frozen=True):
    """What a vault can say of a sealed volume."""

    uuid: Uuid
    site: str
    description: Description
    lines: list[SealedLineState]
