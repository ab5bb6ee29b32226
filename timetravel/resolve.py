"""From a moment to an LSN, and what that LSN is worth.

Duty: find the newest op that a moment includes, go from there to where the consistency groups
concerned stand between transactions, grade that, and refuse what lies outside the volume's
history. Synchronous; any thread. The journal must hold everything up to the moment, and
`quiet_s` more where there is more: whoever asks for a moment close to now has the indexer catch
up first (`sync` on the control socket).

A time goes to a point (`timetravel/barrier_search.py` has the rules). Every other moment, `@now`,
and whatever ends in `!exact`, is itself; its grade says what it is worth. Of a replica `@now` goes
to a point too (I-5): what has arrived may end anywhere.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from store.format import Kind
from store.journal import Journal, OpMeta, Snapshot
from store.types import Lsn, NodeId, TimeNs
from timetravel.errors import (
    MomentBeforeProtection,
    MomentError,
    MomentInFuture,
    NoSuchNode,
    UnknownMark,
)
from timetravel.folds import fold_text
from timetravel.gaps import gap_note, within_resync
from timetravel.grade import Grade
from timetravel.groups import EVERYTHING, Concern, GroupTable
from timetravel.moment import AtLsn, AtMark, AtTime, BeforeLastWrite, Moment, format_time
from timetravel.standing import BarrierSettings, GroupStanding, Judge, Worth, floor_of
from timetravel.view import View

BURST_GAP_NS = 2_000_000_000
"""Writes by one actor closer together than this are one save, as a person sees it."""

_REPLICA_SLACK_NS = 5_000_000_000
"""A replica that ends less than this before the asked time is as good as up to date."""

_FIRST_WINDOW, _MAX_WINDOW = 256, 1 << 20
"""Widths, in LSNs, of the steps back through a node's history."""

_CHANGES_CONTENT = frozenset({Kind.WRITE, Kind.TRUNCATE, Kind.CREATE})
FOUND_AT = frozenset({Kind.MOUNT, Kind.BASELINE})
"""Ops at which nodes were found to be there, with whatever they had."""

_CHANGES_DIRECTORY = frozenset({Kind.CREATE, Kind.LINK, Kind.UNLINK, Kind.RENAME})

DEFAULT_SETTINGS = BarrierSettings()


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
    asked_lsn: Lsn = Lsn(0)
    """The newest op that the moment includes."""
    back_ns: int = 0
    """How far before that op this point lies."""
    groups: tuple[GroupStanding, ...] = ()
    """How the groups concerned stand, some of them, those in the midst of something first."""
    group_count: int = 0
    open_count: int = 0
    """Groups in the midst of a transaction."""

    @property
    def mid_transaction(self) -> bool:
        """Whether some group was in the midst of a transaction."""
        return self.open_count > 0


class Subject(Protocol):
    """What a moment is asked about, which may have stood elsewhere at other moments."""

    def concern(self, lsn: Lsn) -> Concern | None:
        """Where it is at `lsn`; None if nothing of it is there."""
        ...


class Everything:
    """The whole volume."""

    def concern(self, _lsn: Lsn) -> Concern | None:
        """Always there."""
        return EVERYTHING


class PathSubject:
    """A path relative to the volume's root. `view` gives the view of an LSN."""

    def __init__(self, view: Callable[[Lsn], View], path: bytes) -> None:
        self._view = view
        self._path = path

    def concern(self, lsn: Lsn) -> Concern | None:
        """The directory, or the file in its directory."""
        view = self._view(lsn)
        state = view.find(self._path)
        if state is None:
            return None
        if stat.S_ISDIR(state.mode):
            return Concern(state.node)
        above, _slash, name = self._path.rpartition(b"/")
        return Concern(view.walk(above).node, name)


class DirectorySubject:
    """A directory by itself, or by its path where it did not live then."""

    def __init__(self, view: Callable[[Lsn], View], directory: NodeId, path: bytes) -> None:
        self._view = view
        self._directory = directory
        self._path = path

    def concern(self, lsn: Lsn) -> Concern | None:
        """The directory as of then."""
        view = self._view(lsn)
        try:
            return Concern(view.state(self._directory).node)
        except NoSuchNode:
            state = view.find(self._path)
        return None if state is None else Concern(state.node)


class _Located(NamedTuple):
    """The newest op that a moment includes."""

    lsn: Lsn
    reason: str
    first: OpMeta
    """The oldest op of the volume."""
    goes_to_point: bool


def resolve(
    journal: Journal,
    moment: Moment,
    *,
    now_ns: int,
    node: NodeId | None = None,
    subject: Subject | None = None,
    settings: BarrierSettings = DEFAULT_SETTINGS,
    judge_exact: bool = True,
) -> ResolvedPoint:
    """The point that `moment` means.

    `now_ns` is the clock now (nanoseconds since the epoch). `node` is what `@before-last-write`
    is about: a file, or a directory (then the last change of its own names counts). `subject`
    is whose groups count; None: all of the volume. Without `judge_exact` a moment that is itself
    costs no look at its groups, and is graded `crash` or `mark`; `judge` makes up for that.

    Raises MomentInFuture, MomentBeforeProtection, UnknownMark, and MomentError for
    `@before-last-write` without a node.
    """
    with journal.snapshot() as snapshot:
        located = _locate(snapshot, moment, now_ns, node, settings.live)
        fold = snapshot.fold_at(located.lsn)
        if fold is not None:
            located = located._replace(lsn=Lsn(fold.first - 1))
        point = _point_at(snapshot, located.lsn, located, moment)
    if located.goes_to_point:
        point = _at_barrier(journal, point, located, now_ns, subject or Everything(), settings)
    elif judge_exact:
        point = judge(journal, point, now_ns, subject, settings)
    if fold is not None:
        note = f"{fold_text(fold)}; this is the state before them"
        point = replace(point, note="; ".join(filter(None, (point.note, note))))
    return _with_notes(journal, point, moment, settings)


def _with_notes(
    journal: Journal, point: ResolvedPoint, moment: Moment, settings: BarrierSettings
) -> ResolvedPoint:
    """With what is to be said of changes that went unlogged, or have not arrived."""
    asked_ns = moment.time_ns if isinstance(moment, AtTime) else None
    with journal.snapshot() as snapshot:
        gap = gap_note(snapshot, point.asked_lsn or point.lsn, asked_ns)
        whole = not within_resync(snapshot, point.lsn)
        missing = "" if settings.live else _missing_note(snapshot, asked_ns)
    note = "; ".join(filter(None, (point.note, gap, missing)))
    grade = point.grade if whole else Grade.CRASH
    return replace(point, note=note, grade=grade)


def _missing_note(snapshot: Snapshot, asked_ns: int | None) -> str:
    """What is to be said of a replica that ends before the time that was asked for."""
    last = snapshot.last()
    if asked_ns is None or last is None or asked_ns <= last.time_ns + _REPLICA_SLACK_NS:
        return ""
    return f"what is held here ends at {format_time(last.time_ns)} (LSN {last.lsn})"


def judge(
    journal: Journal,
    point: ResolvedPoint,
    now_ns: int,
    subject: Subject | None = None,
    settings: BarrierSettings = DEFAULT_SETTINGS,
) -> ResolvedPoint:
    """The same LSN, with what it is worth for `subject`."""
    concern = (subject or Everything()).concern(point.lsn)
    if concern is None:
        return point
    with journal.snapshot() as snapshot:
        clock_ns = settings.log_clock_ns(snapshot, now_ns)
        table = GroupTable(snapshot, now_ns=clock_ns, quiet_ns=settings.quiet_ns)
        worth = Judge(table, concern, point.lsn, settings).at(point.lsn)
    return _with_worth(point, worth)


def _at_barrier(
    journal: Journal,
    point: ResolvedPoint,
    located: _Located,
    now_ns: int,
    subject: Subject,
    settings: BarrierSettings,
) -> ResolvedPoint:
    """The point at or before the asked one where the subject's groups are at rest."""
    concern = subject.concern(point.lsn)
    if concern is None:
        return point
    with journal.snapshot() as snapshot:
        clock_ns = settings.log_clock_ns(snapshot, now_ns)
        table = GroupTable(snapshot, now_ns=clock_ns, quiet_ns=settings.quiet_ns)
        floor = floor_of(snapshot, point.lsn, settings)
        worth = Judge(table, concern, point.lsn, settings).barrier(point.lsn, floor)
        there = _point_at(snapshot, worth.lsn, located, point)
    if worth.lsn != point.lsn and subject.concern(worth.lsn) is None:
        reason = f"at the point before it, LSN {worth.lsn}, this was not there yet"
        return judge(journal, replace(point, reason=reason), now_ns, subject, settings)
    there = replace(
        there,
        reason="" if worth.group_count else point.reason,
        asked_lsn=point.lsn,
        back_ns=max(point.time_ns - there.time_ns, 0),
    )
    return _with_worth(there, worth)


def _with_worth(point: ResolvedPoint, worth: Worth) -> ResolvedPoint:
    grade = Grade.MARK if point.grade is Grade.MARK else worth.grade
    reason = "; ".join(text for text in (point.reason, worth.reason) if text)
    return replace(
        point,
        grade=grade,
        reason=reason,
        groups=worth.groups,
        group_count=worth.group_count,
        open_count=worth.open_count,
    )


def _point_at(
    snapshot: Snapshot, lsn: Lsn, located: _Located, moment: Moment | ResolvedPoint
) -> ResolvedPoint:
    """An LSN, not yet judged."""
    op = snapshot.op(lsn)
    marked = any(point.grade == "mark" for point in snapshot.points(lsn, Lsn(lsn + 1), "mark"))
    return ResolvedPoint(
        lsn,
        op.time_ns if op is not None else located.first.time_ns,
        Grade.MARK if marked else Grade.CRASH,
        located.reason,
        moment.asked if isinstance(moment, ResolvedPoint) else moment.display(),
        moment.note,
        asked_lsn=lsn,
    )


def _locate(
    snapshot: Snapshot, moment: Moment, now_ns: int, node: NodeId | None, live: bool
) -> _Located:
    first, last = snapshot.first(), snapshot.last()
    if first is None or last is None:
        raise MomentBeforeProtection(moment.display(), "the first mount")
    match moment:
        case AtTime():
            lsn, reason = _at_time(snapshot, moment, now_ns, first, last)
            # What a replica holds need not end between transactions.
            goes_to_point = moment.time_ns != now_ns or not live
        case AtLsn():
            lsn, reason = _at_lsn(moment, first, last)
            goes_to_point = False
        case AtMark():
            lsn, reason = _at_mark(snapshot, moment)
            goes_to_point = False
        case BeforeLastWrite():
            lsn, reason = _before_last_write(snapshot, moment, node, first, last)
            goes_to_point = False
    return _Located(lsn, reason, first, goes_to_point and not moment.exact)


def _at_time(
    snapshot: Snapshot, moment: AtTime, now_ns: int, first: OpMeta, last: OpMeta
) -> tuple[Lsn, str]:
    if moment.time_ns == now_ns:
        # The log's clock never goes back, so it can be ahead of a clock that was set back.
        return last.lsn, "the newest op"
    if moment.time_ns > max(now_ns, last.time_ns):
        raise MomentInFuture(moment.display(), format_time(now_ns))
    lsn = snapshot.lsn_at_clock(moment.time_ns)
    if lsn < first.lsn:
        raise _too_early(moment, format_time(first.time_ns), first)
    return lsn, "the newest op at or before that time"


def _at_lsn(moment: AtLsn, first: OpMeta, last: OpMeta) -> tuple[Lsn, str]:
    if moment.lsn > last.lsn:
        raise MomentInFuture(moment.display(), f"@lsn:{last.lsn}")
    if moment.lsn < first.lsn:
        begin = f"@lsn:{first.lsn}"
        if first.kind == Kind.BASELINE:
            begin = f"{format_time(first.time_ns)} ({begin})"
        raise _too_early(moment, begin, first)
    return moment.lsn, "the LSN itself"


def _too_early(moment: Moment, begin: str, first: OpMeta) -> MomentBeforeProtection:
    copied = first.kind == Kind.BASELINE
    return MomentBeforeProtection(moment.display(), begin, copied=copied)


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
        raise _too_early(moment, format_time(first.time_ns), first)
    return Lsn(start - 1), f"right before the last writes began at LSN {start}"


def _burst_start(snapshot: Snapshot, node: NodeId, last: Lsn) -> Lsn | None:
    """The first op of the node's last burst of writes; None if it was never written."""
    burst: OpMeta | None = None
    for op in _changes_backwards(snapshot, node, last):
        if op.kind in FOUND_AT:
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
    for lsn in changes_back(snapshot, node, last):
        op = snapshot.op(lsn)
        if op is None or op.aborted:
            continue
        about_it = op.kind in _CHANGES_CONTENT if op.node == node else op.kind in _CHANGES_DIRECTORY
        if about_it or op.kind in FOUND_AT:
            yield op


def changes_back(snapshot: Snapshot, node: NodeId, last: Lsn) -> Iterator[Lsn]:
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
