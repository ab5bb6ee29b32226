"""`cdpfs replicate recover`: a volume whose machine is gone comes back from its replica.

Duty: where the replica is, the checks of the new place, progress, and what is true afterwards. What
is done is `replicator/recover.py`'s.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from console.errors import WrongUse
from console.exit_codes import ExitCode
from console.output import note, path_json, path_text, print_json, say
from console.protect import PhaseLine
from replicator.recover import JournalSource, Progress, Recovered, Wish, recover
from replicator.settings import LinkSettings, check_url
from replicator.wire import MAIN_LINE
from store.errors import VolumeExists
from store.volume import default_store_root, list_stores, register
from timetravel.report import caution_about, point_fields, point_sentence
from timetravel.steps import Failure

MAX_SHOWN = 20


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
    directory = os.path.realpath(request.directory)
    root = Path(os.path.realpath(request.store or default_store_root(directory)))
    _check_place(directory, root, request.keep_tree)
    if request.keep_tree and request.at:
        raise WrongUse("a tree that is kept is as of no moment", "leave --at away")
    wish = Wish(
        directory,
        root,
        request.at,
        request.settings,
        request.keep_tree,
        request.accept_failures,
    )
    with _source(request) as source, _progress() as progress:
        _refuse_twin(source, root)
        done = recover(source, wish, progress)
    register(done.store)
    if as_json:
        print_json(_as_json(done))
    else:
        _show(done, request)
    return ExitCode.OK if done.ready and not done.note.missing else ExitCode.FAILURE


def _check_place(directory: str, root: Path, keep_tree: bool) -> None:
    """What can be checked before anything is fetched."""
    from console.protect import refuse_overlap
    from fsd.mountpoint import check_directory, check_store_place
    from replicator.recover import refuse_occupied

    refuse_overlap(directory)
    if keep_tree and not os.path.isdir(directory):
        raise WrongUse(f"there is no tree to keep at {directory}", "leave --keep-tree away")
    if not keep_tree and not (root / "volume.toml").exists():
        refuse_occupied(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    check_directory(directory)
    check_store_place(directory, root)


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


def _refuse_twin(source: JournalSource, root: Path) -> None:
    """Two stores of one volume on one machine would be two histories."""
    uuid = source.held().uuid
    for store in list_stores():
        if store.config.uuid == uuid and store.root.resolve() != root:
            where = store.config.directory
            raise VolumeExists(
                f"this machine has a store of that volume already: {store.root}, of {where}",
                f"mount it if it is whole: cdpfs mount {where}; if it is of no use, move it away",
            )


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    line = PhaseLine()
    shown: dict[str, int] = {}

    def show(stage: str, done: int, total: int) -> None:
        percent = 100 * done // total if total > 0 else 100
        if shown.get(stage) != percent:
            shown[stage] = percent
            line.show({"phase": stage, "%": percent})

    try:
        yield show
    finally:
        line.close()


def _as_json(done: Recovered) -> dict[str, Any]:
    config = done.store.config
    return {
        "ready": done.ready,
        "directory": path_json(os.fsencode(config.directory)),
        "store": path_json(os.fsencode(done.store.root)),
        "volume": config.name,
        "uuid": config.uuid,
        "line": done.note.line,
        "lsn": done.note.lsn,
        "held_lsn": config.foreign_lsn,
        "at": None if done.point is None else point_fields(done.point),
        "written_bytes": done.report.written_bytes,
        "failure_count": done.report.failure_count,
        "failures": _failures_json(done.report.failures),
        "missing_count": done.note.missing,
        "missing": _failures_json(done.missing),
    }


def _failures_json(failures: list[Failure]) -> list[dict[str, str]]:
    return [{"path": path_json(path), "reason": reason} for path, reason in failures]


def _show(done: Recovered, request: Request) -> None:
    config, kept = done.store.config, done.note
    _show_failures(done.missing, kept.missing, "the replica never had")
    _show_failures(done.report.failures, done.report.failure_count, "could not be made here")
    for text, (count, first) in done.report.notes.items():
        more = f" and {count - 1} more" if count > 1 else ""
        note(f"cdpfs: {path_text(first)}{more}: {text}")
    if not done.ready:
        say(f"NOT READY  {path_text(config.directory)}")
        note("  next: mend what is told above, then run the same command again; it goes on there")
        note("  next: or do without these paths: --accept-failures")
        return
    incomplete = "" if not kept.missing else f"  (INCOMPLETE: {kept.missing} paths are missing)"
    say(f"recovered  {path_text(config.directory)}{incomplete}")
    when = f"LSN {kept.lsn}" if done.point is None else point_sentence(done.point)
    if kept.kept:
        say("the tree   stays as it is; what it has beyond the history is logged by the next mount")
    else:
        say(f"as of      {when}")
    say(f"history    LSN 1 to {config.foreign_lsn}, in {done.store.root}")
    if kept.lsn < config.foreign_lsn:
        behind = config.foreign_lsn - kept.lsn
        say(f"           the newest {behind} ops are in history only: {_why(kept.at)}")
    for text in () if done.point is None else filter(None, [caution_about(done.point)]):
        note(f"cdpfs: {text}")
    say()
    where = shlex.quote(config.directory)
    say("Go on there:")
    say(f"  cdpfs mount {where}")
    if request.url is not None:
        line = "" if kept.line == MAIN_LINE else f" --line {kept.line}"
        seal = f" --seal {shlex.quote(request.key_file)} --key-backup B" if request.key_file else ""
        trust = f" --ca {shlex.quote(request.ca)}" if request.ca else ""
        say(f"  cdpfs replicate start {where} --to {request.url} --token-file F{trust}{line}{seal}")
    say("The lost machine must never write to that line again; if it comes back, it gets its own.")


def _why(at: str) -> str:
    return "you asked for an earlier moment" if at else "a transaction was under way"


def _show_failures(failures: list[Failure], count: int, what: str) -> None:
    for path, reason in failures[:MAX_SHOWN]:
        note(f"cdpfs: {path_text(path)}: {reason}")
    if count > MAX_SHOWN:
        note(f"cdpfs: and {count - MAX_SHOWN} more (see --json)")
    if count:
        note(f"cdpfs: {count} paths {what}")
