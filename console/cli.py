"""The `cdpfs` command line: which commands there are, their options, and how they end.

Duty: declarations only. Each command imports the module that does its work when it runs, so that
`cdpfs --help` and completion are quick. `main` is the one place where exceptions become messages
and exit codes.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from console import key_cli, replicate_cli, tape_cli, throttle_cli, vault_cli
from console.exit_codes import ExitCode
from console.options import (
    At,
    Capture,
    Directory,
    Exact,
    Foreground,
    Grade,
    JsonOption,
    Limit,
    Policy,
    Since,
    SomePath,
    StoreOption,
    Until,
)
from console.vault_options import VaultSource, reads_vaults

INTERRUPTED = 130
"""As shells have it: 128 + SIGINT."""

app = typer.Typer(
    name="cdpfs",
    help="A filesystem that backs up by interposition: any moment of a directory, in place.",
    epilog="A volume is named by any path inside it. docs/operations.md lists the exit codes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(replicate_cli.app)
app.add_typer(key_cli.app)
app.add_typer(tape_cli.app)
app.add_typer(throttle_cli.app)
app.add_typer(vault_cli.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cdpfs {version('cdpfs')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of cdpfs itself."""


@app.command()
def protect(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The directory to protect.")],
    store: Annotated[
        str | None, typer.Option(metavar="S", help="Where to keep its history.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="MNT", help="Mount there instead of over DIR.")
    ] = None,
    capture: Annotated[
        Capture | None,
        typer.Option(help="exact: every write is kept. coalesced: faster, kept at syncs only."),
    ] = None,
    policy: Annotated[
        Policy | None,
        typer.Option(
            help="When the store is full or fails. availability: changes go on, and are found "
            "later. strict: they are refused."
        ),
    ] = None,
    foreground: Foreground = False,
    name: Annotated[str | None, typer.Option(metavar="N", help="The volume's name.")] = None,
    ring_files: Annotated[
        int | None, typer.Option(metavar="N", min=3, max=1024, help="Files of the intake log.")
    ] = None,
    ring_file_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of each of them, such as 128M.")
    ] = None,
    seed_rate: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Bytes per second of the initial backup, such as 20M."),
    ] = None,
) -> None:
    """Protect a directory: from now on every change in it is kept."""
    from console.protect import Wishes
    from console.protect import protect as run
    from console.sizes import parse_size

    wishes = Wishes(
        store=store,
        mount_at=at,
        name=name,
        capture=None if capture is None else str(capture),
        protect=None if policy is None else str(policy),
        ring_files=ring_files,
        ring_file_bytes=None if ring_file_bytes is None else parse_size(ring_file_bytes),
        seed_rate_bytes_s=None if seed_rate is None else parse_size(seed_rate),
    )
    run(directory, wishes, foreground)


@app.command()
def mount(
    directory: Directory = ".", store: StoreOption = None, foreground: Foreground = False
) -> None:
    """Mount a protected directory again, after a restart or `umount`."""
    from console.protect import mount as run

    run(directory, store, foreground)


@app.command()
def umount(directory: Directory = ".", store: StoreOption = None) -> None:
    """Take the mount away; the directory stays as it is, unprotected until mounted again."""
    from console.protect import unmount

    unmount(directory, store)


@app.command()
def status(
    directory: Directory = ".",
    store: StoreOption = None,
    as_json: JsonOption = False,
    show_all: Annotated[bool, typer.Option("--all", help="Every volume on this machine.")] = False,
) -> None:
    """How a volume is: mounted or not, initial backup, history, space, alarms."""
    from console import status as run

    if show_all:
        run.show_all(as_json)
    else:
        run.show_status(directory, store, as_json)


@app.command()
@reads_vaults()
def points(
    path: SomePath = ".",
    since: Since = None,
    until: Until = None,
    grade: Annotated[Grade | None, typer.Option(help="This grade or a better one.")] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="The newest N; 0 for all.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    source: VaultSource | None = None,
) -> None:
    """List the recovery points; of a file, those at which it had changed."""
    from console.listing import show_points

    wanted = None if grade is None else str(grade)
    show_points(path, store, since, until, wanted, limit, as_json, source)


@app.command()
@reads_vaults()
def history(
    path: SomePath,
    since: Since = None,
    until: Until = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    source: VaultSource | None = None,
) -> None:
    """When a file or directory changed, how much, and who did it."""
    from console.listing import show_history

    show_history(path, store, since, until, as_json, source)


@app.command()
@reads_vaults("--vault")
def diff(
    path: SomePath = ".",
    *,
    since: Annotated[str, typer.Option("--from", metavar="M", help="The earlier moment.")],
    until: Annotated[
        str | None, typer.Option("--to", metavar="M", help="The later moment; now if left away.")
    ] = None,
    exact: Exact = False,
    limit: Limit = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    source: VaultSource | None = None,
) -> None:
    """What changed between two moments: A added, D deleted, M content, R renamed, ..."""
    from console.reading import show_diff

    show_diff(path, store, since, until, exact, limit, as_json, source)


@app.command()
@reads_vaults()
def cat(
    path: SomePath,
    *,
    at: At,
    exact: Exact = False,
    limit: Limit = None,
    store: StoreOption = None,
    source: VaultSource | None = None,
) -> None:
    """Write a file's content as of a moment to the standard output."""
    from console.reading import cat_file

    cat_file(path, store, at, exact, limit, source)


@app.command("ls")
@reads_vaults()
def list_names(
    path: SomePath = ".",
    *,
    at: At = "@now",
    exact: Exact = False,
    limit: Limit = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    source: VaultSource | None = None,
) -> None:
    """List a directory as of a moment: modes, owners, sizes, times, names."""
    from console.reading import list_directory

    list_directory(path, store, at, exact, limit, as_json, source)


@app.command()
@reads_vaults()
def deleted(
    path: SomePath = ".",
    name: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only names like this, such as '*.xls'.")
    ] = None,
    since: Since = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    source: VaultSource | None = None,
) -> None:
    """Find what was deleted, and when."""
    from console.listing import show_deleted

    show_deleted(path, store, name, since, as_json, source)


@app.command()
@reads_vaults()
def restore(
    path: SomePath,
    *,
    at: At,
    to: Annotated[
        str | None, typer.Option(metavar="DEST", help="Put it there; in place if left away.")
    ] = None,
    store: StoreOption = None,
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
    keep_new: Annotated[
        bool, typer.Option("--keep-new", help="In place: leave what came after the moment.")
    ] = False,
    as_json: JsonOption = False,
    source: VaultSource | None = None,
) -> None:
    """Bring a file or a tree back as it was; in place this is a change like any other.

    From a vault (--from URL) it needs --to, and when it is cut the same command goes on.
    """
    from console.restoring import Request
    from console.restoring import restore as run

    request = Request(path, at, to, store, exact, companions, overwrite, keep_new, limit, source)
    raise typer.Exit(run(request, as_json))


@app.command()
def undo(
    path: SomePath,
    *,
    since: Annotated[str, typer.Option("--since", metavar="M", help="Undo what came after.")],
    exact: Exact = False,
    limit: Limit = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo all changes of a file or tree since a moment, in place."""
    from console.restoring import undo as run

    raise typer.Exit(run(path, store, since, exact, limit, as_json))


@app.command()
def mark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Find it again as @mark:NAME.")],
    directory: Directory = ".",
    pre: Annotated[
        str | None, typer.Option(metavar="C", help="Run this first; no mark if it fails.")
    ] = None,
    post: Annotated[
        str | None, typer.Option(metavar="C", help="Run this afterwards, whatever happened.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, help="Seconds for each of them; 300 if left away."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name this very moment, for example after a program has been brought to rest."""
    from console.marking import set_mark

    raise typer.Exit(set_mark(name, directory, store, pre, post, timeout, as_json))


@app.command()
def bisect(
    path: SomePath,
    *,
    check: Annotated[
        str,
        typer.Option(metavar="CMD", help="Succeeds if a copy is good; {} stands for its path."),
    ],
    expect: Annotated[
        str | None, typer.Option(metavar="REGEX", help="And only if its output has this.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="M", help="A moment when it was good.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="M", help="A moment when it was bad.")
    ] = None,
    grade: Annotated[Grade | None, typer.Option(help="Try points of this grade or better.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Go on from points to the very change (the LSN).")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, help="A check that takes longer counts as bad."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the first moment at which a file or tree was bad, with a checker of your own."""
    from console.bisecting import bisect_path
    from console.laboratory import Request

    wanted = None if grade is None else str(grade)
    request = Request(path, check, expect, since, until, wanted, exact, timeout, store)
    raise typer.Exit(bisect_path(request, as_json))


@app.command()
def verify(
    directory: Directory = ".", store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Read everything in the store and check every digest; exit code 3 if there is damage."""
    from console.upkeep import verify as run

    raise typer.Exit(run(directory, store, as_json))


@app.command()
def reindex(
    directory: Directory = ".", store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Rebuild the index from the segments; the volume must not be mounted."""
    from console.upkeep import reindex as run

    run(directory, store, as_json)


@app.command()
def doctor(
    directory: Annotated[
        str | None, typer.Argument(metavar="DIR", help="A volume; all known ones if left away.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that everything is in place, and say what to do about what is not."""
    from console.doctor import examine

    raise typer.Exit(examine(directory, store, as_json))


@app.command()
def demo(
    parent: Annotated[
        str | None, typer.Option("--dir", metavar="PARENT", help="Work in a new directory there.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything in place.")] = False,
) -> None:
    """A tour in a directory of its own: protect, damage, take back, check, clean up."""
    from console.demo import run_demo

    run_demo(parent, keep)


def main() -> NoReturn:
    """Run the command line; every way to end it is here."""
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("cdpfs: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush the rest either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.FAILURE
    sys.exit(code)


def _run() -> int:
    """The exit code of the command that was asked for. What went wrong is printed."""
    try:
        return int(app(prog_name="cdpfs", standalone_mode=False) or ExitCode.OK)
    except _USAGE_ERROR as error:
        return _explain_usage(error)
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("CDPFS_DEBUG") == "1":
            raise
        from console.failures import explain, report

        failure = explain(error)
        report(failure)
        return int(failure.code)


# The base of typer's errors about the command line, which it does not export by name.
_USAGE_ERROR: Any = typer.BadParameter.__base__


def _explain_usage(error: Any) -> int:
    """What is wrong with the command line; the whole help when there was nothing on it."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    command = error.ctx.command_path if error.ctx is not None else "cdpfs"
    print(f"cdpfs: {error.format_message()}", file=sys.stderr)
    print(f"  next: see {command} --help", file=sys.stderr)
    return ExitCode.USAGE


if __name__ == "__main__":
    main()
