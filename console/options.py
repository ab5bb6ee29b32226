"""Arguments and options that several commands have. Declarations only."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Capture(StrEnum):
    """How writes are captured."""

    EXACT = "exact"
    COALESCED = "coalesced"


class Policy(StrEnum):
    """What becomes of changes that can't be logged."""

    AVAILABILITY = "availability"
    STRICT = "strict"


class Grade(StrEnum):
    """How consistent a recovery point is, weakest first."""

    CRASH = "crash"
    SYNC = "sync"
    TRANSACTION = "transaction"
    MARK = "mark"


Directory = Annotated[str, typer.Argument(metavar="DIR", help="Any path inside the volume.")]
SomePath = Annotated[str, typer.Argument(metavar="PATH", help="A path inside the volume.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="S", help="The volume's store, if it is not to be searched."),
]
KeepTree = Annotated[
    bool,
    typer.Option("--keep-tree", help="Only the store was lost: DIR has the volume's files still."),
]
AcceptFailures = Annotated[
    bool, typer.Option("--accept-failures", help="Do without paths that can't be made here.")
]
NewStore = Annotated[
    str | None, typer.Option("--store", metavar="S", help="Where to keep its history.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Since = Annotated[str | None, typer.Option(metavar="M", help="From this moment on.")]
Until = Annotated[str | None, typer.Option(metavar="M", help="Up to this moment.")]
At = Annotated[
    str, typer.Option("--at", metavar="M", help="The moment: @15:00, @-10m, @mark:NAME, ...")
]
Exact = Annotated[
    bool, typer.Option("--exact", help="The very moment, not the recovery point before it.")
]
Limit = Annotated[
    float | None,
    typer.Option(
        "--limit",
        metavar="S",
        min=0,
        help="How many seconds before the moment a recovery point may lie.",
    ),
]
Foreground = Annotated[bool, typer.Option("--foreground", help="Stay attached, for supervisors.")]
ReaderTokenFile = Annotated[str | None, typer.Option(metavar="F", help="Holds a token.")]
VaultAuthority = Annotated[
    str | None, typer.Option(metavar="F", help="The vault's certificate authority, PEM.")
]
ReaderCertificate = Annotated[
    str | None, typer.Option(metavar="F", help="Certificate instead of a token, PEM.")
]
ReaderCertificateKey = Annotated[
    str | None, typer.Option(metavar="F", help="Its key, if it is in a file of its own.")
]
