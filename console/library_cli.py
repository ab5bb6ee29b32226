"""`cdpfs tape …`: setting a library up, and a person's work with it. Declarations only."""

from __future__ import annotations

from typing import Annotated

import typer

from console.options import Directory, JsonOption, StoreOption

app = typer.Typer(rich_markup_mode=None)

LibraryOption = Annotated[
    str | None,
    typer.Option(
        "--library", metavar="L", help="The library's folder, if it is not the one of DIR's volume."
    ),
]
VolumeName = Annotated[
    str,
    typer.Option(
        "--volume", metavar="V", help="Which volume, by name or UUID, if the library has several."
    ),
]
VolumeDirectory = Annotated[
    str, typer.Option("--dir", metavar="DIR", help="Any path inside a volume of the library.")
]
Copies = Annotated[
    str | None,
    typer.Option(metavar="POOLS", help="One copy in each of these pools: onsite,offsite."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="POOL=DAYS", help="How long a set stays after it was closed."),
]
FullEvery = Annotated[
    list[str] | None,
    typer.Option(metavar="POOL=DAYS", help="How often a new set is begun, with a full."),
]
RotateWhen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POOL=WHEN", help='When its cartridges go out: "offsite=fri 18:00", or never.'
    ),
]
PlaceOf = Annotated[
    list[str] | None,
    typer.Option(metavar="POOL=TEXT", help="Where they go, for people."),
]
Window = Annotated[
    list[str] | None,
    typer.Option(metavar="WHEN", help='Runs begin only then: "mon-fri 20:00-06:00", always.'),
]
StartSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="A run begins when so much waits.")
]
StartAge = Annotated[
    str | None, typer.Option(metavar="TIME", help="... or something has waited so long: 12h.")
]
ArchiveSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Longest archive; 0 leaves it to cdpfs.")
]
MinScratch = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="So many cartridges are to be free at any time."),
]
AlarmLag = Annotated[
    float | None,
    typer.Option(metavar="S", min=0, help="What is not on tape for longer is an alarm."),
]
Seal = Annotated[
    str | None,
    typer.Option(
        metavar="KEY-FILE",
        help="Encrypt new archives with this key (cdpfs key); none: not.",
    ),
]
KeyBackup = Annotated[
    str | None, typer.Option(metavar="F", help="The backup of that key; it is checked.")
]
AcceptKeyLoss = Annotated[
    bool,
    typer.Option(
        "--accept-key-loss",
        help="Instead of --key-backup: without the key nobody can read the cartridges.",
    ),
]
Barcodes = Annotated[
    list[str] | None,
    typer.Argument(metavar="BARCODE...", help="Cartridges, by barcode or by label id."),
]


@app.command("create-library")
def create_library(
    home: Annotated[str, typer.Argument(metavar="L", help="A folder for it: new or empty.")],
    slots: Annotated[int, typer.Option(metavar="N", min=1, help="Storage slots.")] = 20,
    doors: Annotated[int, typer.Option(metavar="N", min=0, help="Import/export slots.")] = 4,
    drives: Annotated[int, typer.Option(metavar="N", min=1, help="Drives.")] = 2,
    capacity: Annotated[
        str, typer.Option(metavar="SIZE", help="Of a cartridge, such as 5G.")
    ] = "5G",
    cartridges: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Blank cartridges in it; all slots if left away."),
    ] = None,
    cleaning: Annotated[
        int, typer.Option(metavar="N", min=0, help="Cleaning cartridges in it.")
    ] = 1,
    block_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Of what is written at once.")
    ] = "256K",
    changer: Annotated[
        str | None,
        typer.Option(metavar="NODE", help="A real library: its changer, such as /dev/sg3."),
    ] = None,
    drive: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Its drives in the changer's order: /dev/nst0, ..."),
    ] = None,
    changer_script: Annotated[
        str | None, typer.Option(metavar="F", help="Another program to move cartridges with.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a virtual library, whose cartridges are folders on a disk, or describe a real one."""
    from console.tape_attaching import LibraryWishes, describe_library
    from console.tape_attaching import create_library as run

    if changer or drive or changer_script:
        describe_library(home, changer, drive or [], changer_script, block_size, as_json)
        return
    wishes = LibraryWishes(slots, doors, drives, capacity, block_size, cartridges, cleaning)
    run(home, wishes, as_json)


@app.command()
def attach(
    directory: Directory = ".",
    library: Annotated[
        str | None, typer.Option("--library", metavar="L", help="The library's folder.")
    ] = None,
    copies: Copies = None,
    keep: Keep = None,
    full_every: FullEvery = None,
    rotate: RotateWhen = None,
    place: PlaceOf = None,
    window: Window = None,
    start_size: StartSize = None,
    start_age: StartAge = None,
    archive_size: ArchiveSize = None,
    min_scratch: MinScratch = None,
    alarm_lag: AlarmLag = None,
    seal: Seal = None,
    key_backup: KeyBackup = None,
    accept_key_loss: AcceptKeyLoss = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a volume copied to a library from now on, or change how."""
    from console.tape_attaching import SealWishes
    from console.tape_attaching import attach as run
    from console.tape_pools import PoolWishes

    pools = PoolWishes(
        copies,
        tuple(keep or ()),
        tuple(full_every or ()),
        tuple(rotate or ()),
        tuple(place or ()),
        tuple(window or ()),
        start_size,
        start_age,
        archive_size,
        min_scratch,
        alarm_lag,
    )
    run(directory, store, library, pools, SealWishes(seal, key_backup, accept_key_loss), as_json)


@app.command()
def detach(
    directory: Directory = ".",
    store: StoreOption = None,
    give_up: Annotated[
        bool,
        typer.Option(
            "--give-up",
            help="Give up what is on tape: its cartridges are free. Or a library that is gone.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Have a volume copied to its library no more."""
    from console.tape_attaching import detach as run

    run(directory, store, give_up, as_json)


@app.command()
def status(
    directory: Directory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print metrics, for node_exporter's textfiles.")
    ] = False,
) -> None:
    """What is on tape and how old, which cartridge is where, and what needs a person."""
    from console.tape_status import show_status

    show_status(directory, store, library, as_json, prometheus)


@app.command("shopping-list")
def shopping_list(
    directory: Directory = ".",
    at: Annotated[
        str, typer.Option("--at", metavar="M", help="A time or an LSN; else the newest barrier.")
    ] = "",
    pool: Annotated[
        str | None, typer.Option(metavar="POOL", help="Of this pool only, such as offsite.")
    ] = None,
    library: LibraryOption = None,
    volume: VolumeName = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which cartridges a restore needs, and where they are."""
    from console.tape_shopping import shopping_list as run

    run(directory, store, library, volume, at, pool, as_json)


@app.command()
def inventory(
    directory: Directory = ".",
    library: LibraryOption = None,
    read_labels: Annotated[
        bool, typer.Option("--read-labels", help="Load each cartridge and read its label.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the robot look what is where, and correct the books."""
    from console.tape_moving import inventory as run
    from console.tape_moving import library_of

    run(library_of(directory, store, library), read_labels, as_json)


@app.command()
def label(
    barcodes: Barcodes = None,
    slot: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Instead of a barcode: what is there.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over what is foreign, newer or unreadable.")
    ] = False,
    directory: VolumeDirectory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make cartridges free for any pool. Blank ones need not be labelled: it happens by itself."""
    from console.tape_moving import label as run
    from console.tape_moving import library_of

    run(library_of(directory, store, library), barcodes or [], slot, force, as_json)


@app.command()
def retire(
    barcodes: Annotated[
        list[str], typer.Argument(metavar="BARCODE...", help="Cartridges, by barcode or label id.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "by hand",
    lost: Annotated[
        bool, typer.Option("--lost", help="It is gone, and what was on it: do not count on it.")
    ] = False,
    directory: VolumeDirectory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Never write to a cartridge again. What is on it counts as long as it is kept."""
    from console.tape_moving import library_of
    from console.tape_moving import retire as run

    run(library_of(directory, store, library), barcodes, reason, lost, as_json)


@app.command("import")
def import_(
    directory: Directory = ".",
    library: LibraryOption = None,
    blank: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Of a virtual library: put in N new blank ones."),
    ] = 0,
    cartridge: Annotated[
        list[str] | None,
        typer.Option(metavar="BARCODE", help="Of a virtual library: put in one that was outside."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring in the cartridges in the import slots. Who comes back is known by its label."""
    from console.tape_moving import library_of, take_in

    take_in(library_of(directory, store, library), blank, cartridge or [], as_json)


@app.command("export")
def export(
    barcodes: Barcodes = None,
    pool: Annotated[
        str | None, typer.Option(metavar="POOL", help="All of a pool, whether due or not.")
    ] = None,
    place: Annotated[
        str, typer.Option("--place", metavar="TEXT", help='Where they will be: "box 3".')
    ] = "",
    taken: Annotated[
        bool,
        typer.Option("--taken", help="Of a virtual library: take them from the slots as well."),
    ] = False,
    directory: VolumeDirectory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring cartridges to the export slots: the named ones, or those that are due."""
    from console.tape_moving import Outgoing
    from console.tape_moving import export as run

    run(directory, store, library, Outgoing(tuple(barcodes or ()), pool, place, taken), as_json)
