"""`cdpfs tape spool`: everything up to now onto tape, and wait until it is there.

Duty: ask the spooler of a mounted volume for a run, or make one in this process when nothing is
mounted; show how far it is. How the copies are comes from the daemon, or from `tape.status`.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from console.control import STATUS_TIMEOUT_S, connect_if_mounted
from console.errors import ConsoleError, DaemonError
from console.exit_codes import ExitCode
from console.output import note, print_json, say, size_text, time_text
from console.volumes import volume_of
from store.volume import Store
from tape.settings import TapeSettings, load_settings
from tape.spool_status import ask_for_run, read_status

if TYPE_CHECKING:
    from tape.running import SpoolerProcess
    from tape.spool_status import SpoolStatus

LOOK_S = 0.1
ATTACH_HINT = "begin with it: cdpfs tape attach DIR --library L"


def spool(path: str, store_root: str | None, timeout_s: float | None, as_json: bool) -> None:
    """Return when every pool of the volume has everything up to now on tape."""
    store = volume_of(path, store_root)
    settings = required_settings(store)
    if not settings.enabled:
        raise ConsoleError("the tape library is switched off for this volume", ATTACH_HINT)
    control = connect_if_mounted(store)
    if control is None:
        _in_this_process(store)
    else:
        with control:
            lsn = _newest_lsn(control)
            ask_for_run(store.root, lsn)
            before = _tries(spooling_of(store))
            control.call("tape", timeout_s=STATUS_TIMEOUT_S)
        _wait(store, settings, lsn, before, timeout_s)
    said = spooling_of(store) or {}
    if as_json:
        print_json(said)
        return
    for pool in said.get("pools") or []:
        when = f" of {time_text(pool['barrier_time_ns'])}" if pool.get("barrier_time_ns") else ""
        say(
            f"{pool['pool']}: on tape up to LSN {pool['covered_lsn']},"
            f" barrier {pool['barrier_lsn']}{when}"
        )


def _newest_lsn(control: Any) -> int:
    """Of the ops so far; they are in the journal when it returns."""
    while True:
        answer = control.call("sync")
        if answer.get("complete"):
            return int(str(answer["lsn"]))
        time.sleep(LOOK_S)


def _wait(
    store: Store,
    settings: TapeSettings,
    lsn: int,
    before: object,
    timeout_s: float | None,
) -> None:
    """Until every pool has `lsn`; the error when a try that began since then has failed."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    names = {pool.name for pool in settings.pools}
    show = _Progress()
    while True:
        said = spooling_of(store) or {}
        there = {
            pool["pool"]
            for pool in said.get("pools") or []
            if pool.get("usable") and int(pool.get("covered_lsn") or 0) >= lsn
        }
        if names <= there and said.get("state") == "idle":
            return
        if said.get("error") and _tries(said) != before:
            raise _failure(said)
        if deadline is not None and time.monotonic() >= deadline:
            raise ConsoleError(
                f"the time is up: not all is on tape yet ({said.get('state')})",
                "see how it is: cdpfs tape status",
                code=ExitCode.BEHIND,
            )
        show(said)
        time.sleep(LOOK_S)


def _failure(said: dict[str, Any]) -> DaemonError:
    """What the spooler says went wrong, with the exit code of its kind."""
    hint = str(said.get("hint") or "see how it is: cdpfs tape status")
    return DaemonError(str(said["error"]), hint, kind=str(said.get("kind") or ""))


def _tries(said: dict[str, Any] | None) -> tuple[object, object]:
    """Tells one failed try from the next, over restarts too."""
    return (said or {}).get("pid"), (said or {}).get("failures")


class _Progress:
    """Says on stderr what is being done, each thing once."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, said: dict[str, Any]) -> None:
        doing = str(said.get("doing") or "")
        if doing and doing != self._shown:
            note(f"{doing}  ({size_text(int(said.get('done_bytes') or 0))} so far)")
        self._shown = doing


def _in_this_process(store: Store) -> None:
    """A run of our own. ConsoleError with what kept it from its end."""
    import trio

    from store.consumer import log_to
    from store.journal import Journal
    from tape.__main__ import LOG_NAME
    from tape.running import SpoolerProcess

    log_to(store.log_dir / LOG_NAME)
    with Journal(store) as journal:
        ask_for_run(store.root, int(journal.indexed_lsn))
    with contextlib.closing(SpoolerProcess(store)) as process:
        trio.run(_run_and_show, process)
        status = process.status
    if status.error:
        raise _failure({"error": status.error, "hint": status.hint, "kind": status.kind})


async def _run_and_show(process: SpoolerProcess) -> None:
    import trio

    async def show() -> None:
        progress = _Progress()
        while True:
            status = process.status
            progress({"doing": status.doing, "done_bytes": status.done_bytes})
            await trio.sleep(LOOK_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(show)
        await process.run(until_done=True)
        nursery.cancel_scope.cancel()


def spooling_of(store: Store) -> dict[str, Any] | None:
    """How the copies on tape are; None when the volume has no library."""
    control = connect_if_mounted(store)
    if control is None:
        return from_store(store)
    with control:
        said = control.call("status", timeout_s=STATUS_TIMEOUT_S).get("tape")
    return said if isinstance(said, dict) else None


def from_store(store: Store) -> dict[str, Any] | None:
    """As `spooling_of`, for a volume that is not mounted."""
    import msgspec

    from tape.running import is_running
    from tape.spool_status import SpoolStatus

    settings = load_settings(store.root)
    if settings is None:
        return None
    status: SpoolStatus = read_status(store.root) or SpoolStatus(library=settings.library)
    if not is_running(store):
        status.state = "down" if settings.enabled else "stopped"
    said: dict[str, Any] = msgspec.to_builtins(status)
    return said


def summary(said: dict[str, Any]) -> str:
    """One line for `cdpfs status`."""
    words = [str(said.get("state"))]
    for pool in said.get("pools") or []:
        reach = f"LSN {pool.get('covered_lsn')}" if pool.get("usable") else "no whole set"
        words.append(f"{pool.get('pool')}: {reach}")
    if said.get("doing"):
        words.append(str(said["doing"]))
    if said.get("error"):
        words.append(f"({said['error']})")
    return ", ".join(words)


def required_settings(store: Store) -> TapeSettings:
    """The settings of a volume with a library; ConsoleError when it has none."""
    settings = load_settings(store.root)
    if settings is None:
        raise ConsoleError(f"{store.config.directory} has no tape library", ATTACH_HINT)
    return settings
