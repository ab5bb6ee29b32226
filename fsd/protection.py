"""Can changes be logged, and what becomes of them when they can't: the state, and who may go on.

The store can be full, fail or be gone. The volume's policy (`protect` in volume.toml) decides:

    logged      every change is logged before it is made
    entering    the store failed; what was logged goes to the backing disk, and a note is made
                that outlives this process. Changes wait
    unlogged    (availability) changes are made and remembered, see `fsd/unlogged.py`
    doubtful    the backing tree failed in the middle of a change. What it concerns is compared as
                after a gap, though nothing went unlogged. Changes wait
    refusing    (strict, or when no such note can be made) changes get ENOSPC or EIO
    resync      the store answers again: what the journal lacks is logged. Changes wait

The moves from state to state, other than the first one, are made by `fsd/gap.py`. In every state
but `logged`, `Intake.append` and `Intake.has_room` are hidden by attributes of the object, so that
the path of an op that is logged is no longer for it. Loop's thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from typing import Any

import trio

from fsd.unlogged import Unlogged
from store.errors import StoreError, StoreFault, StoreFull, TemporaryStoreError
from store.format import Kind
from store.intake import Intake
from store.types import NO_LSN, Lsn, NodeId

log = logging.getLogger(__name__)

_WAITING = frozenset(("entering", "doubtful", "resync"))


class Protection:
    """The state of one session. `unlogged` is what the log lacks, `cause` why.

    `unaborted`: an op whose backing call failed and whose ABORT could not be logged; 0 for none.
    """

    def __init__(self, intake: Intake, policy: str) -> None:
        self._intake = intake
        self.policy = policy
        self.state = "logged"
        self.cause: StoreError | None = None
        self.since_ns = 0
        self.unlogged = Unlogged()
        self.unaborted = Lsn(0)
        self.failed = trio.Event()
        """Set when the state is no longer `logged`."""
        self._moved = trio.Condition()

    def is_suspended(self) -> bool:
        """Is anything but `logged` the case?"""
        return self.state != "logged"

    def describe(self) -> dict[str, Any]:
        """For `status`."""
        suspended = self.is_suspended()
        return {
            "policy": self.policy,
            "state": self.state,
            "since_ns": self.since_ns if suspended else 0,
            "reason": str(self.cause) if suspended else "",
            "unlogged_ops": self.unlogged.ops if suspended else 0,
        }

    # --- the store failed -------------------------------------------------------------------

    def suspend(self, cause: StoreError, state: str = "") -> bool:
        """The store failed. True when the request that met this is to be tried again.

        `state`: which one follows, if not the one that the policy wants.
        """
        if self.state == "logged":
            log.warning("changes can't be logged: %s", cause)
            self.cause, self.since_ns = cause, time.time_ns()
            self.state = state or ("entering" if self.policy == "availability" else "refusing")
            self.unlogged = Unlogged()
            self.hide_intake()
            self.failed.set()
        if isinstance(cause, TemporaryStoreError) and cause.lost is not None:
            # What the backing file system did by itself may be there without having been logged.
            kind, node, offset, payload = cause.lost
            cause.lost = None
            self.unlogged.note(kind, NodeId(node), offset, payload)
        return self.state != "refusing"

    def suspend_for(self, cause: StoreFull | StoreFault) -> bool:
        """As `suspend`, for what a request met.

        A store that is only full goes on taking what changes no content as long as it can, if the
        policy is to refuse the rest.
        """
        only_full = isinstance(cause, StoreFull) and cause.lost is None
        if not self.is_suspended() and only_full and self.policy == "strict":
            return False
        return self.suspend(cause)

    def give_up(self, lsn: Lsn, cause: StoreError) -> None:
        """Op `lsn` failed in the backing tree and its ABORT can't be logged: nobody may take it."""
        self.suspend(cause)
        self.unaborted = lsn

    def doubt(self, op: tuple[int, int, int, bytes], cause: OSError) -> None:
        """An op (kind, node, offset, payload) failed in the backing tree, maybe not wholly."""
        if self.state == "logged":
            number = cause.errno or errno.EIO
            fault = StoreFault(
                f"the backing tree failed in the middle of a change: {cause}", number
            )
            self.suspend(fault, "doubtful")
        kind, node, offset, payload = op
        self.unlogged.note(kind, NodeId(node), offset, payload)

    async def move(self, state: str) -> None:
        """Another state; whoever waits for one looks again."""
        self.state = state
        if state == "logged":
            self.failed = trio.Event()
        async with self._moved:
            self._moved.notify_all()

    # --- requests ---------------------------------------------------------------------------

    async def admit(self, little: bool) -> None:
        """A request that may change something can go on when it returns. StoreFull, StoreFault.

        `little`: if it only looks, or nothing is to be logged of it, it is not refused here.
        """
        while self.state in _WAITING:
            async with self._moved:
                if self.state in _WAITING:
                    await self._moved.wait()
        if self.state == "refusing" and not little:
            raise self._refusal()

    def _refusal(self) -> StoreError:
        cause = self.cause
        if isinstance(cause, StoreFault):
            return StoreFault(f"changes are refused: {cause}", errno.EIO)
        return StoreFull(f"changes are refused: {cause}")

    # --- in the place of the intake log -------------------------------------------------------

    def hide_intake(self) -> None:
        """Nothing reaches the log any more."""
        hidden = vars(self._intake)
        hidden["append"] = self._append_nothing
        hidden["has_room"] = _never

    def show_append(self) -> None:
        """Ops are logged again; requests still have to ask `admit`."""
        vars(self._intake).pop("append", None)

    def show_intake(self) -> None:
        """All is as it was."""
        self.show_append()
        vars(self._intake).pop("has_room", None)

    def _append_nothing(
        self,
        kind: int,
        node: int,
        offset: int = 0,
        payload: bytes = b"",
        flags: int = 0,
        actor: int = 0,
    ) -> Lsn:
        """Stands for `Intake.append`: the newest LSN stays what it is."""
        self._intake.tick()
        self.unlogged.note(kind, NodeId(node), offset, payload)
        if self.state == "refusing":
            raise self._refusal()
        return NO_LSN if kind == Kind.ACTOR else self._intake.lsn

    def has_real_room(self) -> bool:
        """May the log be appended to, whatever applications are told?"""
        return type(self._intake).has_room(self._intake)

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """What is done inside is logged. No await in there."""
        hidden = vars(self._intake)
        append = hidden.pop("append", None)
        try:
            yield
        finally:
            if append is not None:
                hidden["append"] = append


def _never() -> bool:
    """Stands for `Intake.has_room`: whoever wants to append has to ask `Protection` first."""
    return False
