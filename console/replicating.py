"""`cdpfs replicate start | stop | wait | status | run`: the site's end of replication.

Duty: write the settings, tell the daemon, and say what is now true. How replication is comes from
the daemon, or from `replica.status` when the volume is not mounted.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.control import STATUS_TIMEOUT_S, connect_if_mounted
from console.errors import ConsoleError, WrongUse
from console.exit_codes import ExitCode
from console.output import duration_text, note, path_text, print_json, say, size_text
from console.volumes import volume_of
from replicator.errors import Forked, Refused
from replicator.settings import (
    LinkSettings,
    ReplicaSettings,
    check_url,
    load_settings,
    read_token,
    save_settings,
)
from replicator.wire import MAIN_LINE, Hello, Position
from store.volume import Store

if TYPE_CHECKING:
    from replicator.status import ReplicaStatus

LOOK_S = 0.05
START_HINT = "begin with it: cdpfs replicate start DIR --to URL --token-file F"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Wishes:
    """What a person asked for when replication is set up; None leaves it as it is."""

    url: str
    token_file: str | None = None
    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    line: str | None = None
    seal: str | None = None
    key_backup: str | None = None
    accept_key_loss: bool = False
    alarm_lag_s: float | None = None
    check: bool = True


def start(path: str, store_root: str | None, wishes: Wishes) -> None:
    """Set replication up, or change it, and have it begin."""
    store = volume_of(path, store_root)
    settings = _settings(store, wishes)
    if settings.link.token_file:
        read_token(settings.link.token_file)
    elif not settings.link.client_cert:
        raise WrongUse("the vault must know who we are", "give --token-file F or --client-cert F")
    _warn_of_plain_http(settings.link.url)
    if wishes.check:
        _say_vault(store, *_ask_vault(store, settings))
    save_settings(store.root, settings)
    mounted = poke(store)
    say(f"replicating  {path_text(store.config.directory)}  to  {settings.link.url}")
    if not mounted:
        directory = store.config.directory
        note(
            f"it is not mounted: it begins with the next mount, or: cdpfs replicate run {directory}"
        )


def _settings(store: Store, wishes: Wishes) -> ReplicaSettings:
    """What is set up already, with what is wished for in its place."""
    check_url(wishes.url)
    known = load_settings(store.root)
    link = LinkSettings(url=wishes.url) if known is None else known.link
    link.url = wishes.url.rstrip("/")
    for name in ("token_file", "ca", "client_cert", "client_key"):
        wished = getattr(wishes, name)
        if wished is not None:
            setattr(link, name, os.path.abspath(wished) if wished else "")
    if wishes.line is not None:
        link.line = wishes.line
    settings = known or ReplicaSettings(link=link)
    settings.enabled = True
    if wishes.seal is not None:
        settings.seal.key_file = _key_file(settings.seal.key_file, wishes)
    if wishes.alarm_lag_s is not None:
        settings.policy.alarm_lag_s = wishes.alarm_lag_s
    return settings


def _key_file(known: str, wishes: Wishes) -> str:
    """The key file that is wished for, if it may be used in place of the one that is `known`."""
    from console.keys import checked_for_sealing
    from store.key_file import read_key_file

    assert wishes.seal is not None
    chosen = checked_for_sealing(wishes.seal, wishes.key_backup, wishes.accept_key_loss)
    if known and os.path.exists(known):
        ours, theirs = (read_key_file(Path(path)) for path in (chosen, known))
        if not ours.holds(theirs):
            raise WrongUse(
                f"{chosen} does not have the keys of {known}, with which this volume is sealed",
                "a new key for it: cdpfs key rotate",
            )
    return chosen


def _warn_of_plain_http(url: str) -> None:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        note("WARNING: plain http: the token and all content go over the line unencrypted")


def _ask_vault(store: Store, settings: ReplicaSettings) -> tuple[Hello, Position]:
    """Introduce the volume to its vault. ReplicationError when that can't be done."""
    import trio

    from replicator.link import Link
    from replicator.sender import describe_volume

    async def ask() -> tuple[Hello, Position]:
        async with Link.open(settings.link) as link:
            return await describe_volume(link, store, settings)

    return trio.run(ask)


def _say_vault(store: Store, hello: Hello, position: Position) -> None:
    say(f"vault        {hello.vault}, which knows this site as {hello.site}")
    held = position.next_lsn - 1
    say(f"held there   {f'up to LSN {held}' if held > 0 else 'nothing of this volume yet'}")
    ahead_s = (hello.time_ns - time.time_ns()) / 1e9
    if abs(ahead_s) > 60:
        where = "ahead" if ahead_s > 0 else "behind"
        note(
            f"WARNING: the vault's clock is {duration_text(abs(ahead_s))} {where} of this machine's"
        )


def stop(path: str, store_root: str | None, forget: bool) -> None:
    """Switch replication off. What is at the vault stays there."""
    from replicator.forking import NOTE_NAME
    from replicator.sender import HOLD
    from replicator.settings import settings_path
    from replicator.status import status_path
    from store import durable
    from store.holds import drop_hold

    store = volume_of(path, store_root)
    settings = required_settings(store)
    settings.enabled = False
    save_settings(store.root, settings)
    poke(store)
    if forget:
        durable.unlink(settings_path(store.root))
        drop_hold(store.root, HOLD)
        durable.drop(status_path(store.root))
        durable.drop(store.root / NOTE_NAME)
        durable.drop_tree(store.root / "outgoing")
    say(f"stopped  {path_text(store.config.directory)}: it is no longer replicated")


def wait(path: str, store_root: str | None, timeout_s: float | None) -> None:
    """Return when the vault has everything up to now; exit code BEHIND when the time is up."""
    store = volume_of(path, store_root)
    required_settings(store)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    lsn = _newest_lsn(store)
    # What it said before may be of what somebody has mended just now: it is to try again first.
    before: object = _tries(replication_of(store))
    if not poke(store):
        before = None
    while True:
        said = replication_of(store)
        assert said is not None
        acked = int(said.get("acked_lsn") or 0)
        link = required_settings(store).link  # read again: the line may become another one
        vault = (link.url, link.line)
        if acked >= lsn and (said.get("url"), said.get("line")) == vault:
            own = "" if link.line == MAIN_LINE else f"  in line {link.line}"
            say(f"replicated  up to LSN {acked}{own}")
            return
        if said.get("state") != "refused" or _tries(said) != before:
            _raise_if_hopeless(store, said)
        if deadline is not None and time.monotonic() >= deadline:
            raise ConsoleError(
                f"the time is up: the vault has LSN {acked} of {lsn} ({said.get('state')})",
                *([str(said["error"])] if said.get("error") else []),
                f"see how it is: cdpfs replicate status {store.config.directory}",
                code=ExitCode.BEHIND,
            )
        time.sleep(LOOK_S)


def _tries(said: dict[str, Any] | None) -> tuple[object, object]:
    """Tells one failed try from the next, over restarts too."""
    return (said or {}).get("pid"), (said or {}).get("failures")


def _newest_lsn(store: Store) -> int:
    """Of the ops so far; they are in the journal when it returns."""
    from store.journal import Journal

    control = connect_if_mounted(store)
    if control is None:
        with Journal(store) as journal:
            return int(journal.indexed_lsn)
    with control:
        while True:
            answer = control.call("sync")
            if answer.get("complete"):
                return int(str(answer["lsn"]))
            time.sleep(LOOK_S)


def _raise_if_hopeless(store: Store, said: dict[str, Any]) -> None:
    """Waiting is no use when a person must act first."""
    state, error, hint = said.get("state"), str(said.get("error")), said.get("hint")
    if state == "refused":
        raise Refused(error, str(hint) if hint else None)
    if state == "forked":
        raise Forked(error, str(hint) if hint else None)
    if state == "stopped":
        raise ConsoleError("replication is switched off", START_HINT)
    if state == "down" and connect_if_mounted(store) is None:
        directory = store.config.directory
        raise ConsoleError(
            f"{directory} is not mounted, and nothing replicates it",
            f"cdpfs replicate run {directory}",
            code=ExitCode.UNREACHABLE,
        )


def show_status(path: str, store_root: str | None, as_json: bool) -> None:
    """Print how replication is."""
    store = volume_of(path, store_root)
    settings = required_settings(store)
    said = replication_of(store)
    assert said is not None
    if as_json:
        print_json(said)
        return
    rows = _rows(said)
    if settings.seal.key_file:
        rows.append(("sealed", f"with {path_text(settings.seal.key_file)}"))
    for label, text in rows:
        say(f"{label.ljust(9)}  {text}")


def replication_of(store: Store) -> dict[str, Any] | None:
    """How replication is; None when it is not set up."""
    control = connect_if_mounted(store)
    if control is None:
        return from_store(store)
    with control:
        said = control.call("status", timeout_s=STATUS_TIMEOUT_S).get("replication")
    return said if isinstance(said, dict) else None


def from_store(store: Store) -> dict[str, Any] | None:
    """As `replication_of`, for a volume that is not mounted."""
    import msgspec

    from replicator.running import is_running
    from replicator.status import ReplicaStatus, read_status

    settings = load_settings(store.root)
    if settings is None:
        return None
    status = read_status(store.root) or ReplicaStatus(url=settings.link.url)
    if not is_running(store):
        status.state = "down" if settings.enabled else "stopped"
        _count(store, status)
    said: dict[str, Any] = msgspec.to_builtins(status)
    return said


def _count(store: Store, status: ReplicaStatus) -> None:
    """What the vault lacks, by the journal: the last words of a process may be from before."""
    from replicator.backlog import Backlog
    from store.journal import Journal
    from store.statepage import StatePage

    page = StatePage(store.state_path)
    with contextlib.closing(page), Journal(store) as journal:
        backlog = Backlog(journal, page)
        backlog.begin(status.acked_lsn)
        status.indexed_lsn, status.lag_bytes = backlog.indexed_lsn, backlog.payload_bytes
        status.lag_s = round(backlog.lag_s(), 3)


def summary(said: dict[str, Any]) -> str:
    """One line for `cdpfs status`."""
    state = str(said.get("state"))
    lag = f"{duration_text(float(said.get('lag_s') or 0))} behind"
    text = f"{state}, {lag}, at LSN {said.get('acked_lsn')} of {said.get('url') or '?'}"
    if said.get("error"):
        text += f" ({said['error']})"
    return "; ".join([text, *(text for _, text in _parting_rows(said))])


def _rows(said: dict[str, Any]) -> list[tuple[str, str]]:
    lag = f"{duration_text(float(said.get('lag_s') or 0))}, {size_text(said['lag_bytes'])} to send"
    rows = [
        ("state", str(said["state"])),
        ("vault", f"{said.get('url')}  {said.get('vault', '')}"),
        ("line", str(said.get("line", ""))),
        *_parting_rows(said),
        ("at vault", f"LSN {said['acked_lsn']}, seen there up to {said.get('visible_lsn', 0)}"),
        ("lag", lag),
        ("limit", _limit_text(said)),
        ("rate", f"{_rate_text(int(said.get('rate_bps') or 0))}"),
    ]
    eta = said.get("eta_s")
    if said["lag_bytes"] and isinstance(eta, int | float):
        rows.append(("ready in", f"about {duration_text(float(eta))}"))
    if said.get("error"):
        rows.append(("error", str(said["error"])))
        rows.append(("next", str(said.get("hint", ""))))
    return rows


def _parting_rows(said: dict[str, Any]) -> list[tuple[str, str]]:
    """That another machine has written under the volume's name, and where it is kept."""
    import msgspec

    from replicator.forking import parting_text
    from replicator.status import Parted

    parted = msgspec.convert(said.get("parted"), Parted | None)
    return [] if parted is None else [("ATTENTION", parting_text(parted))]


def _limit_text(said: dict[str, Any]) -> str:
    limit, reason = said.get("limit_bps"), said.get("limit_reason")
    text = "none" if limit is None else "paused" if limit == 0 else _rate_text(int(limit))
    return f"{text} ({reason})" if reason else text


def _rate_text(bps: int) -> str:
    for unit, name in ((10**9, "Gbit/s"), (10**6, "Mbit/s"), (10**3, "kbit/s")):
        if bps >= unit:
            return f"{bps / unit:.1f} {name}"
    return f"{bps} bit/s"


def run(path: str, store_root: str | None, for_ever: bool) -> None:
    """Replicate in the foreground: until the vault has everything, or for ever."""
    import trio

    from replicator.__main__ import LOG_NAME, be_quiet_of_requests
    from replicator.running import Replicator
    from store.consumer import log_to

    store = volume_of(path, store_root)
    settings = required_settings(store)
    if not settings.enabled:
        raise ConsoleError("replication is switched off", START_HINT)
    log_to(store.log_dir / LOG_NAME)
    be_quiet_of_requests()
    with contextlib.closing(Replicator(store)) as replicator:
        try:
            trio.run(replicator.run, -1, not for_ever)
        except BaseExceptionGroup as group:
            # Tasks that fail together; the first one tells what it was.
            raise _first(group) from None
    said = from_store(store) or {}
    say(f"replicated  up to LSN {said.get('acked_lsn')}")


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def required_settings(store: Store) -> ReplicaSettings:
    """The settings of a volume that is replicated; ConsoleError when it is not."""
    settings = load_settings(store.root)
    if settings is None:
        raise ConsoleError(f"{store.config.directory} is not replicated", START_HINT)
    return settings


def poke(store: Store) -> bool:
    """Tell the daemon that the settings were changed; is there one?"""
    control = connect_if_mounted(store)
    if control is None:
        return False
    with control:
        control.call("replicate", timeout_s=STATUS_TIMEOUT_S)
    return True
