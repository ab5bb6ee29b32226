"""The tree of a volume whose journal was brought to another machine is made anew there.

Duty: from a store that has the journal, and the note of its recovery, to one that can be mounted:

    restoring   the tree as of the visible head (or of a moment) into an empty directory
                or, if only the store was lost, the tree stays as it is
    ready       the next mount takes the tree over and continues the history

It can be cut anywhere and gone on with by calling `revive` again. Blocking; one thread. It knows
nothing of where the journal came from.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from store.errors import RecoveryUnfinished
from store.journal import Journal
from store.relocation import Relocation, read_relocation, write_relocation
from store.volume import GroupConfig, Store
from timetravel.head import HeadTracker, head_point
from timetravel.moment import parse_moment
from timetravel.place import Place
from timetravel.rebuild import KnownView, TreePlan, plan_tree
from timetravel.resolve import ResolvedPoint, resolve
from timetravel.standing import BarrierSettings
from timetravel.steps import Failure, Report, carry_out

Progress = Callable[[int, int], None]
"""Called with bytes of the tree: how many are done, and how many there are."""

_CLOCK_SLACK_NS: Final = 1_000_000_000
"""The clock of files may be so much behind that of the log."""


class Revived(NamedTuple):
    """What came of it. `point` is None when the tree had been made by an earlier run, or stays."""

    note: Relocation
    point: ResolvedPoint | None
    report: Report
    missing: list[Failure]
    """Paths of which the journal never had the content, or all the names."""


def revive(
    store: Store, *, accept_failures: bool = False, progress: Progress | None = None
) -> Revived:
    """Make the tree in the directory that the store names, as its note says, or go on with it.

    All of the journal must be there. RecoveryUnfinished without a note; MomentError for its
    moment; StoreFull. What could not be written is in the report: then it is not ready, unless
    `accept_failures`, and worth another try. The caller holds the store's lock.
    """
    note = read_relocation(store)
    if note is None:
        raise RecoveryUnfinished(f"nothing says what {store.root} is to become")
    with Journal(store) as journal:
        if note.stage == "ready":
            return Revived(note, None, Report(), [])
        _take_over_settings(store, journal)
        revival = _Revival(store, journal, note, accept_failures)
        return revival.keep() if note.kept else revival.restore(progress or _silent)


class _Revival:
    """One run."""

    def __init__(
        self, store: Store, journal: Journal, note: Relocation, accept_failures: bool
    ) -> None:
        self._store = store
        self._journal = journal
        self._note = note
        self._accept_failures = accept_failures

    def _change(self, **fields: Any) -> None:
        self._note = msgspec.structs.replace(self._note, **fields)
        write_relocation(self._store, self._note)

    def keep(self) -> Revived:
        """The first mount compares the tree with the journal's end."""
        last = self._journal.last()
        assert last is not None
        ended_ns = max(last.time_ns - _CLOCK_SLACK_NS, 1)
        self._change(stage="ready", lsn=last.lsn, ended_ns=ended_ns)
        return Revived(self._note, None, Report(), [])

    def restore(self, progress: Progress) -> Revived:
        """Write what is not there yet."""
        point = self._point()
        self._change(stage="restoring", lsn=point.lsn)
        directory = self._store.config.directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        view = KnownView(self._journal, point.lsn)

        def bytes_done(done_bytes: int, total_bytes: int, _files: int) -> None:
            progress(done_bytes, total_bytes)

        with Place(os.fsencode(directory)) as place:
            plan: TreePlan = plan_tree(view, place)
            report = carry_out(view, place, plan.steps, progress=bytes_done)
        if report.ok or (self._accept_failures and not report.stopped):
            self._change(stage="ready", ended_ns=time.time_ns(), missing=len(plan.missing))
        return Revived(self._note, point, report, plan.missing)

    def _point(self) -> ResolvedPoint:
        """What the tree is to be as of; what was decided once stays."""
        config, note, now_ns = self._store.config, self._note, time.time_ns()
        settings = BarrierSettings(config.point_limit_s, config.quiet_s)
        asked = f"@lsn:{note.lsn}" if note.lsn else note.at
        if asked:
            moment = parse_moment(asked, now_ns=now_ns, zone=None)
            return resolve(self._journal, moment, now_ns=now_ns, settings=settings)
        with self._journal.snapshot() as snapshot:
            head = HeadTracker(settings).advance(snapshot)
        return head_point(self._journal, head, settings)


def _take_over_settings(store: Store, journal: Journal) -> None:
    """What the log says of the volume's settings: those of its barriers, with configured groups."""
    with journal.snapshot() as snapshot:
        settings = snapshot.point_reader.settings()
    groups = [{"name": group.name, "paths": list(group.paths)} for group in settings.groups]
    if not groups:
        return  # the log says nothing of any
    with contextlib.suppress(msgspec.ValidationError):  # of a newer cdpfs, perhaps
        store.config.groups = msgspec.convert(groups, list[GroupConfig])
        store.save_config()


def _silent(_done: int, _total: int) -> None:
    """No progress is shown."""
