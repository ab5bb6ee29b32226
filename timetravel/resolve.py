"""From a moment to an LSN, and what that LSN is worth.

Duty: find the newest op that a moment includes, grade it, and refuse what lies outside the
volume's history. Synchronous; any thread. The journal must hold everything up to the moment:
whoever asks for a moment close to now has the indexer catch up first (`sync` on the control
socket). It knows nothing of paths: `@before-last-write` is asked of a node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from store.format import Kind
from store.journal import Journal, OpMeta, Snapshot
from store.types import Lsn, NodeId, TimeNs
from timetravel.errors import (
    MomentBeforeProtection,
    MomentError,
    MomentInFuture,
    UnknownMark,
)
from timetravel.grade import Grade
from timetravel.moment import AtLsn, AtMark, AtTime, BeforeLastWrite, Moment, format_time

BURST_GAP_NS = 2_000_000_000
"""Writes by one actor closer together than this are one save, as a person sees it."""

_FIRST_WINDOW, _MAX_WINDOW = 256, 1 << 20
"""Widths, in LSNs, of the steps back through a node's history."""

_CHANGES_CONTENT = frozenset({Kind.WRITE, Kind.TRUNCATE, Kind.CREATE})
_CHANGES_DIRECTORY = frozenset({Kind.CREATE, Kind.LINK, Kind.UNLINK, Kind.RENAME})


@dataclass(frozen=True, slots=True)
class ResolvedPoint:
    """What a moment came to. `asked` is its canonical text, `reason` why it is this LSN."""

    lsn: Lsn
    time_ns: TimeNs
    grade: Grade
    reason: str
    asked: str
    note: str = ""
    """A choice that was made in reading the moment, for people; empty if there was none."""


def resolve(
    journal: Journal, moment: Moment, *, now_ns: int, node: NodeId | None = None
) -> ResolvedPoint:
    """The point that `moment` means.

    `now_ns` is the clock now (nanoseconds since the epoch). `node` is what `@before-last-write`
    is about: a file, or a directory (then the last change of its own names counts).

    Raises MomentInFuture, MomentBeforeProtection, UnknownMark, and MomentError for
    `@before-last-write` without a node.
    """
    with journal.snapshot() as snapshot:
        first, last = snapshot.first(), snapshot.last()
        if first is None or last is None:
            raise MomentBeforeProtection(moment.display(), "the first mount")
        match moment:
            case AtTime():
                lsn, reason = _at_time(snapshot, moment, now_ns, first, last)
            case AtLsn():
                lsn, reason = _at_lsn(moment, first, last)
            case AtMark():
                lsn, reason = _at_mark(snapshot, moment)
            case BeforeLastWrite():
                lsn, reason = _before_last_write(snapshot, moment, node, first, last)
        op = snapshot.op(lsn)
        time_ns = op.time_ns if op is not None else first.time_ns
        grade = _grade(snapshot, lsn)
    note = moment.note
    return ResolvedPoint(lsn, time_ns, grade, reason, moment.display(), note)


def _at_time(
    snapshot: Snapshot, moment: AtTime, now_ns: int, first: OpMeta, last: OpMeta
) -> tuple[Lsn, str]:
    if moment.time_ns == now_ns:
        # The log's clock never goes back, so it can be ahead of a clock that was set back.
        return last.lsn, "the newest op"
    if moment.time_ns > max(now_ns, last.time_ns):
        raise MomentInFuture(moment.display(), format_time(now_ns))
    lsn = snapshot.lsn_at(moment.time_ns)
    if lsn < first.lsn:
        raise MomentBeforeProtection(moment.display(), format_time(first.time_ns))
    return lsn, "the newest op at or before that time"


def _at_lsn(moment: AtLsn, first: OpMeta, last: OpMeta) -> tuple[Lsn, str]:
    if moment.lsn > last.lsn:
        raise MomentInFuture(moment.display(), f"@lsn:{last.lsn}")
    if moment.lsn < first.lsn:
        raise MomentBeforeProtection(moment.display(), f"@lsn:{first.lsn}")
    return moment.lsn, "the LSN itself"


def _at_mark(snapshot: Snapshot, moment: AtMark) -> tuple[Lsn, str]:
    marks = snapshot.marks()
    # Newest first: setting a mark's name again moves the mark.
    for name, lsn, _time_ns in reversed(marks):
        if name == moment.name:
            return lsn, f"the mark {name}"
    raise UnknownMark(moment.name, [name for name, _lsn, _time_ns in marks])


def _before_last_write(
    snapshot: Snapshot, moment: BeforeLastWrite, node: NodeId | None, first: OpMeta, last: OpMeta
) -> tuple[Lsn, str]:
    if node is None:
        raise MomentError(
            moment.display(), "it needs a file", "name the file whose last write is meant"
        )
    start = _burst_start(snapshot, node, last.lsn)
    if start is None or start <= first.lsn:
        begin = format_time(first.time_ns)
        raise MomentBeforeProtection(moment.display(), begin)
    return Lsn(start - 1), f"right before the last writes began at LSN {start}"


def _burst_start(snapshot: Snapshot, node: NodeId, last: Lsn) -> Lsn | None:
    """The first op of the node's last burst of writes; None if it was never written."""
    burst: OpMeta | None = None
    for op in _changes_backwards(snapshot, node, last):
        if op.kind == Kind.MOUNT:
            # An adoption: found in the tree at that mount. The first one is no write.
            if burst is None and op.lsn > _first_known(snapshot, node):
                return op.lsn
            break
        if burst is not None and (
            op.actor != burst.actor or burst.time_ns - op.time_ns >= BURST_GAP_NS
        ):
            break
        burst = op
    return None if burst is None else burst.lsn


def _first_known(snapshot: Snapshot, node: NodeId) -> Lsn:
    return next(iter(snapshot.node_ops(node, Lsn(1), Lsn(1 << 63))), Lsn(0))


def _changes_backwards(snapshot: Snapshot, node: NodeId, last: Lsn) -> Iterator[OpMeta]:
    """Ops that wrote a file or changed a directory's names, and adoptions; newest first."""
    for lsn in _backwards(snapshot, node, last):
        op = snapshot.op(lsn)
        if op is None or op.aborted:
            continue
        about_it = op.kind in _CHANGES_CONTENT if op.node == node else op.kind in _CHANGES_DIRECTORY
        if about_it or op.kind == Kind.MOUNT:
            yield op


def _backwards(snapshot: Snapshot, node: NodeId, last: Lsn) -> Iterator[Lsn]:
    """The LSNs at which `node` changed, newest first.

    The index walks forwards only, so this asks for windows that double: the last change of a
    node with a long history is found without passing all of it. A window that had something is
    followed by a small one, which bounds the memory where changes are dense.
    """
    stop, width = last + 1, _FIRST_WINDOW
    while stop > 1:
        start = max(1, stop - width)
        found = list(snapshot.node_ops(node, Lsn(start), Lsn(stop)))
        yield from reversed(found)
        stop, width = start, _FIRST_WINDOW if found else min(width * 2, _MAX_WINDOW)


def _grade(snapshot: Snapshot, lsn: Lsn) -> Grade:
    """The best grade of a recovery point at exactly `lsn`; any LSN is at least a crash point."""
    grades = [Grade.of(point.grade) for point in snapshot.points(lsn, Lsn(lsn + 1))]
    return max(grades, default=Grade.CRASH)
