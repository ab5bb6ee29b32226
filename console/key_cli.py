"""`cdpfs key …`, also as `cdpfs replicate key …`: options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from console.options import (
    ReaderCertificate,
    ReaderCertificateKey,
    ReaderTokenFile,
    VaultAuthority,
)

app = typer.Typer(
    name="key",
    help="The keys that seal what a site sends to its vault or writes on cartridges.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyFile = Annotated[str, typer.Argument(metavar="KEY-FILE", help="For its owner only (0600).")]


@app.command()
def create(
    key_file: KeyFile,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="FILE", help="Also write its backup into a new file."),
    ] = None,
) -> None:
    """Make a key file. Whoever loses it and its backup loses all that was sealed with it."""
    from console.keys import create as run

    run(key_file, backup)


@app.command("show-backup")
def show_backup(
    key_file: KeyFile,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="A new file, instead of printing it.")
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="TEXT", help="What it is for, in one line, for people.")
    ] = "",
) -> None:
    """Print all keys as text, for paper or another disk: whoever has it can read everything."""
    from console.keys import show_backup as run

    run(key_file, to, label)


@app.command("import-backup")
def import_backup(
    backup: Annotated[
        str, typer.Argument(metavar="BACKUP", help="The backup's text, or - for standard input.")
    ],
    key_file: KeyFile,
) -> None:
    """Make a key file out of a backup, typed in from paper or copied."""
    from console.keys import import_backup as run

    run(backup, key_file)


@app.command()
def rotate(
    key_file: KeyFile,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="FILE", help="Also write a backup into a new file."),
    ] = None,
) -> None:
    """Add a new key, which seals from now on; the old ones stay, to open what they sealed."""
    from console.keys import rotate as run

    run(key_file, backup)


@app.command()
def check(
    key_file: KeyFile,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="FILE", help="Does this backup have all of its keys?"),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="URL|R", help="Does it open what this vault has?"),
    ] = None,
    volume: Annotated[
        str | None, typer.Option("--volume", metavar="V", help="Of this volume, UUID or name.")
    ] = None,
    line: Annotated[str, typer.Option(metavar="L", help="The line of history.")] = "main",
    token_file: ReaderTokenFile = None,
    ca: VaultAuthority = None,
    client_cert: ReaderCertificate = None,
    client_key: ReaderCertificateKey = None,
) -> None:
    """Is the key file whole, its backup good, and does it open what the vault has?"""
    from console.keys import check as run
    from console.mirroring import try_key

    run(key_file, backup)
    if origin is not None:
        link = {
            "token_file": token_file,
            "ca": ca,
            "client_cert": client_cert,
            "client_key": client_key,
        }
        try_key(volume, origin, key_file, line, **link)
