"""Who does it: one ACTOR op for each process that changes something, referred to by later ops.

Loop's thread only. /proc is asked again for a process that was last looked at over a second ago,
since process numbers are reused and programs exec.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from store.format import Kind
from store.intake import Intake
from store.ops import Actor
from store.types import NO_LSN, Lsn

MAX_ACTORS = 4096
_FRESH_S = 1.0


class Actors:
    """The processes seen lately, with the LSNs of their ACTOR ops."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._known: OrderedDict[tuple[int, int, int], tuple[Lsn, Actor, float]] = OrderedDict()

    def forget(self) -> None:
        """What was said of them did not reach the log: say it again."""
        self._known.clear()

    def lsn_of(self, pid: int, uid: int, gid: int) -> Lsn:
        """The LSN of the op that names this process; it is logged now if there is none yet."""
        if not pid:
            return NO_LSN
        now = time.monotonic()
        key = (pid, uid, gid)
        known = self._known.get(key)
        if known is not None and now - known[2] < _FRESH_S:
            return known[0]
        actor = _look(pid, uid, gid)
        if known is not None and known[1] == actor:
            lsn = known[0]
        else:
            lsn = self._intake.append(Kind.ACTOR, 0, 0, actor.encode())
        self._known[key] = (lsn, actor, now)
        self._known.move_to_end(key)
        if len(self._known) > MAX_ACTORS:
            self._known.popitem(last=False)
        return lsn


def _look(pid: int, uid: int, gid: int) -> Actor:
    """What /proc says of a process; a process that is gone has no command."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
        command = line[line.index(b"(") + 1 : line.rindex(b")")]
        fields = line[line.rindex(b")") + 2 :].split()
        parent, session = int(fields[1]), int(fields[3])
    except (OSError, ValueError, IndexError):
        command, parent, session = b"", 0, 0
    return Actor(uid, gid, pid, parent, max(session, 0), command)
