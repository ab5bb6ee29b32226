"""`cdpfs replicate …`: the commands and their options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from console.key_cli import app as key_app
from console.options import (
    AcceptFailures,
    Directory,
    JsonOption,
    KeepTree,
    NewStore,
    ReaderCertificate,
    ReaderCertificateKey,
    ReaderTokenFile,
    StoreOption,
    VaultAuthority,
)

app = typer.Typer(
    name="replicate",
    help="A copy of a volume, with all its history, at a vault elsewhere.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.add_typer(key_app)


@app.command()
def start(
    directory: Directory = ".",
    *,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="https://HOST:PORT of the vault.")],
    token_file: Annotated[
        str | None,
        typer.Option(metavar="F", help="Holds this site's token; for its owner only (0600)."),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option(metavar="F", help="The vault's own certificate authority, PEM."),
    ] = None,
    client_cert: Annotated[
        str | None, typer.Option(metavar="F", help="Certificate that proves who we are, PEM.")
    ] = None,
    client_key: Annotated[
        str | None, typer.Option(metavar="F", help="Its key, if it is in a file of its own.")
    ] = None,
    line: Annotated[
        str | None, typer.Option(metavar="L", help="The line of history at the vault to write.")
    ] = None,
    seal: Annotated[
        str | None,
        typer.Option(
            metavar="KEY-FILE",
            help="Encrypt everything with this key, which the vault does not get; see `key`.",
        ),
    ] = None,
    key_backup: Annotated[
        str | None, typer.Option(metavar="F", help="The backup of that key; it is checked.")
    ] = None,
    accept_key_loss: Annotated[
        bool,
        typer.Option(
            "--accept-key-loss",
            help="Instead of --key-backup: without the key nobody can read the replica.",
        ),
    ] = False,
    alarm_lag: Annotated[
        float | None,
        typer.Option(metavar="S", min=0, help="More lag than this is an alarm; 0: never."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Ask the vault first, or do not.")
    ] = True,
    store: StoreOption = None,
) -> None:
    """Replicate a volume to a vault from now on, or change how."""
    from console.replicating import Wishes
    from console.replicating import start as run

    wishes = Wishes(
        url=to,
        token_file=token_file,
        ca=ca,
        client_cert=client_cert,
        client_key=client_key,
        line=line,
        seal=seal,
        key_backup=key_backup,
        accept_key_loss=accept_key_loss,
        alarm_lag_s=alarm_lag,
        check=check,
    )
    run(directory, store, wishes)


@app.command()
def stop(
    directory: Directory = ".",
    store: StoreOption = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget the settings and what the vault has, too.")
    ] = False,
) -> None:
    """Replicate no more; what is at the vault stays there."""
    from console.replicating import stop as run

    run(directory, store, forget)


@app.command()
def wait(
    directory: Directory = ".",
    timeout: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Exit code 17 after so long.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Return when the vault has everything up to now."""
    from console.replicating import wait as run

    run(directory, store, timeout)


@app.command()
def status(
    directory: Directory = ".", store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """How far the vault is behind, the limit, the rate, and what is wrong."""
    from console.replicating import show_status

    show_status(directory, store, as_json)


@app.command()
def run(
    directory: Directory = ".",
    store: StoreOption = None,
    for_ever: Annotated[
        bool, typer.Option("--forever", help="Go on when the vault has everything.")
    ] = False,
) -> None:
    """Replicate a volume that is not mounted, in the foreground."""
    from console.replicating import run as work

    work(directory, store, for_ever)


@app.command()
def export(
    directory: Directory = ".",
    *,
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="The file to write.")],
    since_position: Annotated[
        str | None,
        typer.Option(metavar="F", help="What the vault has already, as `import` wrote it."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write the history into a file, to bring it to the vault by disk."""
    from console.parcels import export as work

    work(directory, store, to, since_position)


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    *,
    root: Annotated[str, typer.Option(metavar="R", help="The vault's folder; not being served.")],
    site: Annotated[str, typer.Option(metavar="NAME", help="The site whose volume it is.")],
    line: Annotated[str, typer.Option(metavar="L", help="The line of history.")] = "main",
    position_to: Annotated[
        str | None,
        typer.Option(metavar="F", help="Write what the vault has then, for the next export."),
    ] = None,
) -> None:
    """At the vault: take in a file that came by disk. The site goes on sending from there."""
    from console.parcels import import_parcel

    import_parcel(file, root, site, line, position_to)


AuthorityFile = Annotated[
    str, typer.Option("--ca", metavar="F", help="The vault's own certificate authority, PEM.")
]
CertificateFile = Annotated[
    str,
    typer.Option("--client-cert", metavar="F", help="Certificate that proves who we are, PEM."),
]
OpeningKeyFile = Annotated[
    str, typer.Option("--key-file", metavar="F", help="The key file, if the volume is sealed.")
]
CertificateKeyFile = Annotated[
    str,
    typer.Option("--client-key", metavar="F", help="Its key, if it is in a file of its own."),
]


@app.command()
def recover(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Where it is to live: empty, or to be made.")
    ],
    *,
    volume: Annotated[
        str, typer.Option("--volume", metavar="V", help="The volume at the vault, name or UUID.")
    ],
    url: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="https://HOST:PORT of the vault.")
    ] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="R", help="Or the vault's folder, on a disk.")
    ] = None,
    token_file: Annotated[
        str, typer.Option(metavar="F", help="Holds the site's token; for its owner only (0600).")
    ] = "",
    ca: AuthorityFile = "",
    client_cert: CertificateFile = "",
    client_key: CertificateKeyFile = "",
    line: Annotated[
        str, typer.Option("--line", metavar="L", help="The line of history to go on with.")
    ] = "main",
    at: Annotated[
        str,
        typer.Option("--at", metavar="M", help="The moment; the newest whole one if left away."),
    ] = "",
    store: NewStore = None,
    ring_files: Annotated[
        int | None, typer.Option(metavar="N", min=3, max=1024, help="Files of the intake log.")
    ] = None,
    ring_file_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of each of them, such as 128M.")
    ] = None,
    keep_tree: KeepTree = False,
    accept_failures: AcceptFailures = False,
    key_file: OpeningKeyFile = "",
    as_json: JsonOption = False,
) -> None:
    """The machine is gone: make its volume anew from the vault, to go on with its history."""
    from console.recovering import Request
    from console.recovering import run as run_recovery

    request = Request(
        directory,
        volume,
        url,
        root,
        token_file,
        ca,
        client_cert,
        client_key,
        line,
        at,
        store,
        _ring_settings(ring_files, ring_file_bytes),
        keep_tree,
        accept_failures,
        key_file,
    )
    raise typer.Exit(run_recovery(request, as_json))


def _ring_settings(files: int | None, file_bytes: str | None) -> dict[str, object]:
    """What was said of the intake log, as `volume.toml` has it."""
    from console.sizes import parse_size

    settings: dict[str, object] = {}
    if files is not None:
        settings["ring_files"] = files
    if file_bytes is not None:
        settings["ring_file_bytes"] = parse_size(file_bytes)
    return settings


@app.command()
def mirror(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="UUID or name, at the vault.")],
    *,
    origin: Annotated[
        str, typer.Option("--from", metavar="URL|R", help="The vault, or its folder.")
    ],
    root: Annotated[
        str, typer.Option(metavar="R", help="The mirror's folder; made if it is not there.")
    ],
    key_file: Annotated[
        str, typer.Option(metavar="F", help="The key file with which the volume was sealed.")
    ],
    line: Annotated[str | None, typer.Option(metavar="L", help="The line of history.")] = None,
    token_file: ReaderTokenFile = None,
    ca: VaultAuthority = None,
    client_cert: ReaderCertificate = None,
    client_key: ReaderCertificateKey = None,
) -> None:
    """Fetch a sealed volume and open it with its key, into a folder that vault commands read."""
    from console.mirroring import mirror as work

    work(
        volume,
        origin,
        root,
        key_file,
        line,
        token_file=token_file,
        ca=ca,
        client_cert=client_cert,
        client_key=client_key,
    )
