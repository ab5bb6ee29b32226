"""`cdpfs tape …`: the commands and their options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from console import library_cli
from console.options import Directory, JsonOption, StoreOption

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
