"""`cdpfs vault …`: the commands at a vault and their options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated

import typer

from console.options import JsonOption

app = typer.Typer(
    name="vault",
    help="The other end of replication: keeps the histories of many sites.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Root = Annotated[str, typer.Option("--root", metavar="R", help="The vault's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and -.")]
ByCertificate = Annotated[
    bool,
    typer.Option(
        "--by-certificate", help="It has no token, but a certificate of the client CA with NAME."
    ),
]


@app.command()
def init(root: Root) -> None:
    """Make a vault in a new folder."""
    from console.vaults import init as run

    run(root)


@app.command("add-site")
def add_site(
    name: Name, root: Root, by_certificate: ByCertificate = False, as_json: JsonOption = False
) -> None:
    """Let a site keep its volumes here; prints its token, which is shown only once."""
    from console.vaults import add

    add(root, name, "site", by_certificate, as_json)


@app.command("add-reader")
def add_reader(
    name: Name, root: Root, by_certificate: ByCertificate = False, as_json: JsonOption = False
) -> None:
    """Let someone read all volumes and write none; prints a token, as add-site does."""
    from console.vaults import add

    add(root, name, "reader", by_certificate, as_json)


@app.command("rotate-site")
def rotate_site(name: Name, root: Root, as_json: JsonOption = False) -> None:
    """A new token for a site or reader; the one before stays valid until `revoke`."""
    from console.vaults import rotate

    rotate(root, name, as_json)


@app.command()
def revoke(
    name: Name,
    root: Root,
    everything: Annotated[
        bool, typer.Option("--all", help="The newest token as well: nobody gets in by this name.")
    ] = False,
) -> None:
    """Make the tokens before the newest one of a site or reader invalid."""
    from console.vaults import revoke as run

    run(root, name, everything)


@app.command()
def certificate(
    name: Name,
    root: Root,
    allow: Annotated[
        bool | None,
        typer.Option("--allow/--deny", help="Does a certificate with NAME count as a token?"),
    ] = None,
    revoke: Annotated[
        str | None,
        typer.Option(metavar="FINGERPRINT", help="SHA-256 of one that counts no more."),
    ] = None,
) -> None:
    """Whether a site or reader may come by certificate, and which ones count no more."""
    from console.vaults import certificate as run

    run(root, name, allow, revoke)


@app.command()
def serve(
    root: Root,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 takes a free one.")
    ],
    tls_cert: Annotated[
        str | None, typer.Option(metavar="F", help="The vault's certificate and chain, PEM.")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="F", help="Its key, PEM.")] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Without TLS: only where the network is safe.")
    ] = False,
    client_ca: Annotated[
        str | None, typer.Option(metavar="F", help="Who signs the certificates of sites, PEM.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Tell Prometheus metrics there without a token; a loopback address.",
        ),
    ] = None,
) -> None:
    """Take in what the sites send, until SIGTERM; prints the address that it listens on."""
    from console.vaults import serve as run
    from replicator.vault.serve import Listen

    run(root, Listen.parse(listen, tls_cert, tls_key, insecure_http, client_ca, metrics))


@app.command("list")
def show(root: Root, as_json: JsonOption = False) -> None:
    """The volumes: whose they are, how far they have come, and how they are."""
    from console.vaults import show as run

    raise typer.Exit(run(root, as_json))


@app.command()
def verify(
    root: Root,
    volume: Annotated[
        str | None, typer.Argument(metavar="VOLUME", help="UUID or name; all if left away.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read all that is kept and check every digest; exit code 3 if there is damage."""
    from console.vaults import verify as run

    raise typer.Exit(run(root, volume, as_json))


@app.command()
def mount(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="UUID or name.")],
    mount_point: Annotated[str, typer.Argument(metavar="MNT", help="An empty directory.")],
    root: Root,
    line: Annotated[
        str | None, typer.Option(metavar="L", help="Another line of history than main.")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay attached, for supervisors.")
    ] = False,
) -> None:
    """Look at a volume: its newest barrier and, below .snapshots, every moment; read-only."""
    from console.vault_mounting import mount_replica

    mount_replica(root, volume, mount_point, line, foreground)


@app.command()
def umount(
    mount_point: Annotated[str, typer.Argument(metavar="MNT", help="Where it is mounted.")],
) -> None:
    """Take such a mount away."""
    from console.vault_mounting import unmount_replica

    unmount_replica(mount_point)
