"""`cdpfs tape …`: the commands and their options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from console.options import Directory, JsonOption, StoreOption

app = typer.Typer(
    name="tape",
    help="Copies of a volume on tape, in a library that runs itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
