"""`cdpfs replicate recover`: a volume whose machine is gone comes back from its replica.

Duty: where the replica is, and what comes next. What is done is `replicator/recover.py`'s.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from console.errors import WrongUse
from console.exit_codes import ExitCode
from console.output import note, print_json, say
from console.recovered import exit_code, fields_of, progress_shown, show, wish_for
from replicator.recover import JournalSource, recover
from replicator.settings import LinkSettings, check_url
from replicator.wire import MAIN_LINE
from store.volume import register
from timetravel.recovery import Recovered, refuse_twin


@dataclass(frozen=True)
class Request:
    """The arguments of `cdpfs replicate recover`."""

    directory: str
    volume: str
    url: str | None = None
    root: str | None = None
    token_file: str = ""
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    line: str = MAIN_LINE
    at: str = ""
    store: str | None = None
    settings: dict[str, object] = field(default_factory=dict)
    keep_tree: bool = False
    accept_failures: bool = False
    key_file: str = ""
    """Of a sealed volume."""

    @property
    def link(self) -> LinkSettings:
        """How to get to the vault."""
        assert self.url is not None
        names = {
            name: os.path.abspath(value) if value else ""
            for name, value in (
                ("token_file", self.token_file),
                ("ca", self.ca),
                ("client_cert", self.client_cert),
                ("client_key", self.client_key),
            )
        }
        return LinkSettings(url=self.url.rstrip("/"), line=self.line, **names)


def run(request: Request, as_json: bool) -> ExitCode:
    """Recover, or go on with it, and print what was done."""
    wish = wish_for(
        request.directory,
        request.store,
        request.at,
        keep_tree=request.keep_tree,
        accept_failures=request.accept_failures,
        settings=request.settings,
    )
    with _source(request) as source, progress_shown() as progress:
        refuse_twin(source.held().uuid, wish.store_root)
        done = recover(source, wish, progress)
    register(done.store)
    if as_json:
        print_json(fields_of(done))
    else:
        show(done, "the replica never had")
        if done.ready:
            _show_next(done, request)
    return exit_code(done)


@contextlib.contextmanager
def _source(request: Request) -> Iterator[JournalSource]:
    """Where the journal comes from."""
    if (request.url is None) == (request.root is None):
        raise WrongUse("where is the replica?", "give either --from URL or --root R")
    if request.key_file:
        with _sealed(request) as sealed:
            yield sealed
        return
    if request.root is not None:
        from replicator.recover_disk import VaultFolder
        from replicator.vault.root import VaultRoot

        root = VaultRoot.open(Path(request.root))
        yield VaultFolder(root, request.volume, request.line)
        return
    from replicator.recover_link import VaultUrl

    check_url(request.link.url)
    if not request.token_file and not request.client_cert:
        raise WrongUse("the vault must know who we are", "give --token-file F or --client-cert F")
    with VaultUrl(request.link, request.volume, _say_waiting) as source:
        yield source


@contextlib.contextmanager
def _sealed(request: Request) -> Iterator[JournalSource]:
    """A sealed volume, opened with its key as it comes."""
    from console.mirroring import sealed_vault
    from replicator.sealed_source import SealedSource
    from store.key_file import read_key_file

    ring = read_key_file(Path(request.key_file))
    link = request.link if request.url is not None else None
    with sealed_vault(request.root, link, _say_waiting) as vault:
        yield SealedSource(vault, request.volume, request.line, ring)


def _say_waiting(text: str) -> None:
    note(f"cdpfs: {text}")


def _show_next(done: Recovered, request: Request) -> None:
    say()
    where = shlex.quote(done.store.config.directory)
    say("Go on there:")
    say(f"  cdpfs mount {where}")
    if request.url is not None:
        line = "" if done.note.line == MAIN_LINE else f" --line {done.note.line}"
        seal = f" --seal {shlex.quote(request.key_file)} --key-backup B" if request.key_file else ""
        trust = f" --ca {shlex.quote(request.ca)}" if request.ca else ""
        say(f"  cdpfs replicate start {where} --to {request.url} --token-file F{trust}{line}{seal}")
    say("The lost machine must never write to that line again; if it comes back, it gets its own.")
