"""`cdpfs tape …`: the commands and their options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from console import library_cli
from console.library_cli import LibraryOption, VolumeDirectory, VolumeName
from console.options import (
    AcceptFailures,
    Directory,
    Exact,
    JsonOption,
    KeepTree,
    Limit,
    NewStore,
    StoreOption,
)

app = typer.Typer(
    name="tape",
    help="Copies of a volume on tape, in a library that runs itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(library_cli.app)


@app.command()
def spool(
    directory: Directory = ".",
    timeout: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Exit code 17 after so long.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring everything up to now onto tape, and return when it is there."""
    from console.spooling import spool as run

    run(directory, store, timeout, as_json)


@app.command()
def calibrate(
    library: Annotated[str, typer.Option("--library", metavar="L", help="The library's folder.")],
    cartridge: Annotated[
        str, typer.Argument(metavar="BARCODE", help="A blank one; it is as good as blank after.")
    ],
    drive: Annotated[int, typer.Option(metavar="N", min=0, help="The changer's number.")] = 0,
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="To be written with each size of blocks.")
    ] = "2G",
    as_json: JsonOption = False,
) -> None:
    """Measure a drive on a blank cartridge: which size of blocks is the fastest."""
    from pathlib import Path

    from console.tape_calibrate import calibrate as run

    run(Path(library).absolute(), cartridge, drive, size, as_json)


@app.command("open")
def open_archive(
    key_file: Annotated[
        str, typer.Option("--key-file", metavar="F", help="The keys with which it was sealed.")
    ],
    archive: Annotated[
        str | None, typer.Argument(metavar="ARCHIVE", help="As dd read it; else standard input.")
    ] = None,
) -> None:
    """Turn a sealed archive into the plain one in it, on standard output, for tar."""
    from console.tape_opening import open_sealed as run

    run(archive, key_file)


PoolOption = Annotated[
    str, typer.Option("--pool", metavar="P", help="From this pool only, such as offsite.")
]
OpeningKeyFile = Annotated[
    str, typer.Option("--key-file", metavar="F", help="The key file, if the set is sealed.")
]


@app.command()
def scan(
    library: Annotated[str, typer.Option("--library", metavar="L", help="The library's folder.")],
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="S", help="Make this store from the best set, too."),
    ] = None,
    volume: VolumeName = "",
    pool: PoolOption = "",
    at: Annotated[
        str, typer.Option("--at", metavar="M", help="With --store: a moment that it must hold.")
    ] = "",
    directory: Annotated[
        str,
        typer.Option("--directory", metavar="DIR", help="Where the tree is to be, if elsewhere."),
    ] = "",
    key_file: OpeningKeyFile = "",
    as_json: JsonOption = False,
) -> None:
    """Read every cartridge and write the books anew; nothing but the cartridges is needed."""
    from pathlib import Path

    from console.tape_restoring import Chosen
    from console.tape_restoring import scan as run

    chosen = Chosen(Path(library).absolute(), volume, pool, at, key_file)
    raise typer.Exit(run(chosen, store, directory, as_json))


@app.command()
def recover(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Where it is to live: empty, or to be made.")
    ],
    *,
    library: Annotated[str, typer.Option("--library", metavar="L", help="The library's folder.")],
    volume: VolumeName = "",
    pool: PoolOption = "",
    at: Annotated[
        str,
        typer.Option("--at", metavar="M", help="The moment; the newest whole one if left away."),
    ] = "",
    store: NewStore = None,
    keep_tree: KeepTree = False,
    accept_failures: AcceptFailures = False,
    key_file: OpeningKeyFile = "",
    as_json: JsonOption = False,
) -> None:
    """The machine is gone: make its volume anew from cartridges, to go on with its history."""
    from pathlib import Path

    from console.tape_recovering import Request
    from console.tape_recovering import run as run_recovery
    from tape.recover import Copy

    request = Request(
        directory,
        Path(library).absolute(),
        Copy(volume, pool),
        at,
        store,
        keep_tree,
        accept_failures,
        key_file,
    )
    raise typer.Exit(run_recovery(request, as_json))


@app.command()
def restore(
    path: Annotated[str, typer.Argument(metavar="PATH", help="In the volume.")],
    *,
    to: Annotated[str, typer.Option("--to", metavar="DEST", help="Put it there.")],
    library: Annotated[str, typer.Option("--library", metavar="L", help="The library's folder.")],
    at: Annotated[
        str,
        typer.Option("--at", metavar="M", help="The moment; the newest whole one if left away."),
    ] = "",
    volume: VolumeName = "",
    pool: PoolOption = "",
    key_file: OpeningKeyFile = "",
    scratch: Annotated[
        str,
        typer.Option(
            "--scratch", metavar="DIR", help="A disk with room for the set; that of DEST."
        ),
    ] = "",
    from_full: Annotated[
        bool,
        typer.Option(
            "--from-full",
            help="As it was when the set was begun: only the archives that hold it are read.",
        ),
    ] = False,
    exact: Exact = False,
    limit: Limit = None,
    companions: Annotated[
        bool | None,
        typer.Option(
            "--with-companions/--alone",
            help="With the files that belong to it, such as a database's journal, or without.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are at DEST already.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a file or a tree back from cartridges; says first which have to be brought."""
    from pathlib import Path

    from console.restoring import Request
    from console.tape_restoring import Chosen, restore_from_full
    from console.tape_restoring import restore as run

    chosen = Chosen(Path(library).absolute(), volume, pool, at, key_file)
    request = Request(path, at, to, None, exact, companions, overwrite, limit_s=limit)
    if from_full:
        raise typer.Exit(restore_from_full(chosen, request, as_json))
    raise typer.Exit(run(chosen, request, scratch, as_json))


@app.command()
def verify(
    barcodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="BARCODE...", help="Of these only; else of all."),
    ] = None,
    directory: VolumeDirectory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read cartridges again and compare, those first that were read longest ago."""
    from console.tape_moving import library_of
    from console.tape_restoring import verify as run

    raise typer.Exit(run(library_of(directory, store, library), barcodes or [], as_json))


@app.command()
def load(
    barcode: Annotated[str, typer.Argument(metavar="BARCODE", help="Or its label's id.")],
    directory: VolumeDirectory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a cartridge into a drive and wait until it is ready."""
    from console.tape_moving import library_of
    from console.tape_restoring import load as run

    run(library_of(directory, store, library), barcode, as_json)


@app.command()
def unload(
    directory: VolumeDirectory = ".",
    library: LibraryOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring what is in the drives back into the slots."""
    from console.tape_moving import library_of
    from console.tape_restoring import unload as run

    run(library_of(directory, store, library), as_json)
