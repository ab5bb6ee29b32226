"""`cdpfs mark`: name this moment, between a command that brings programs to rest and one after.

Duty: the order of the three, and that the second command runs whatever happened to the others.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from console.commands import Ended, run_command
from console.control import Control
from console.errors import ConsoleError, WrongUse
from console.exit_codes import ExitCode
from console.output import note, print_json, say, time_json, time_text
from console.volumes import volume_of
from store.volume import Store
from timetravel.errors import MomentError
from timetravel.moment import valid_mark_name

DEFAULT_TIMEOUT_S = 300.0
"""For each hook: a database that is held at rest must not be held for ever."""


@dataclass
class _Marking:
    """One run of `cdpfs mark`."""

    name: str
    store: Store
    pre: str | None
    post: str | None
    timeout_s: float
    point: dict[str, Any] = field(default_factory=dict)
    """LSN and time of the mark, once it is set."""
    ended: dict[str, Ended] = field(default_factory=dict)
    """How the hooks ended, by phase."""

    def run(self) -> None:
        """Hook, mark, hook. The second hook runs whatever happens; errors of the others raise."""
        with Control(self.store) as control, _terminable():
            try:
                if self.pre is not None:
                    self._run_pre(self.pre)
                self.point = control.call("mark", {"name": self.name}, timeout_s=self.timeout_s)
            finally:
                if self.post is not None:
                    self._hook("post", self.post)

    def _run_pre(self, command: str) -> None:
        ended = self._hook("pre", command)
        if not ended.ok:
            raise ConsoleError(
                f"the --pre command {ended.text}, so no mark was set: {command}",
                "run it alone to see what is wrong with it"
                if not ended.timed_out
                else "give it more time: --timeout S",
                code=ExitCode.HOOK,
            )

    def _hook(self, phase: str, command: str) -> Ended:
        environment = {
            "CDPFS_PHASE": phase,
            "CDPFS_MARK": self.name,
            "CDPFS_DIR": self.store.config.mount_point,
            "CDPFS_LSN": str(self.point.get("lsn", "")),
        }
        ended = run_command(command, timeout_s=self.timeout_s, environment=environment)
        self.ended[phase] = ended
        if phase == "post" and not ended.ok:
            note(f"cdpfs: the --post command {ended.text}: {command}")
            set_or_not = "the mark is set" if self.point else "no mark was set"
            note(f"  next: {set_or_not}; see to it that the programs go on, and run it again")
        return ended


def set_mark(
    name: str,
    directory: str,
    store_root: str | None,
    pre: str | None,
    post: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> ExitCode:
    """Set the mark `name`; `pre` and `post` are shell commands or None.

    HOOK if a hook failed or ran out of time; after `--post` the mark is set all the same.
    """
    try:
        name = valid_mark_name(name)
    except MomentError as error:
        raise WrongUse(str(error), error.hint) from error
    store = volume_of(directory, store_root)
    limit_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
    marking = _Marking(name, store, pre, post, limit_s)
    marking.run()
    _tell(marking, as_json)
    post_ended = marking.ended.get("post")
    return ExitCode.OK if post_ended is None or post_ended.ok else ExitCode.HOOK


def _tell(marking: _Marking, as_json: bool) -> None:
    lsn, time_ns = int(str(marking.point["lsn"])), int(str(marking.point["time_ns"]))
    if as_json:
        hooks = {
            phase: {
                "exit_code": ended.code,
                "timed_out": ended.timed_out,
                "seconds": round(ended.seconds, 3),
            }
            for phase, ended in marking.ended.items()
        }
        print_json(
            {
                "name": marking.name,
                "lsn": lsn,
                "time": time_json(time_ns),
                "time_ns": time_ns,
                "hooks": hooks,
            }
        )
        return
    say(f"marked  {marking.name}  at {time_text(time_ns)} (LSN {lsn})")
    say(f"  ls {marking.store.config.mount_point}/.snapshots/@mark:{marking.name}/")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does, so that the second hook runs."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
