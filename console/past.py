"""Opening a volume's past for a command, whether the volume is mounted or not.

Duty: the journal, brought up to now by the daemon where there is one; moments as people write
them; views that ask the daemon for what is not in the journal yet. One thread. How a past state
looks is timetravel's business.
"""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Self

from console.control import Control, connect_if_mounted
from console.errors import DaemonError
from console.output import note
from console.volumes import Place, place_of
from store.errors import NotSeeded
from store.journal import Journal, Snapshot
from store.types import Lsn, NodeId, TimeNs
from timetravel.companions import Companion, find_companions
from timetravel.errors import MomentError
from timetravel.groups import GroupTable
from timetravel.moment import AtTime, parse_moment
from timetravel.report import caution_about, point_sentence
from timetravel.resolve import PathSubject, ResolvedPoint, resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View


class Past:
    """The history of the volume that a path lies in. A context manager."""

    def __init__(self, path: str, store_root: str | None, limit_s: float | None = None) -> None:
        self.place: Place = place_of(path, store_root)
        config = self.place.store.config
        self.settings = BarrierSettings(
            config.point_limit_s if limit_s is None else limit_s,
            config.quiet_s,
            live=not config.replica,
        )
        self._control: Control | None = connect_if_mounted(self.place.store)
        try:
            if self._control is not None:
                _tell_if_incomplete(self._control.call("sync"))
            self.journal = Journal(self.place.store)
        except BaseException:
            if self._control is not None:
                self._control.close()
            raise
        self.now_ns = time.time_ns()

    @property
    def path(self) -> bytes:
        """The path relative to the volume's root."""
        return self.place.path

    @property
    def is_mounted(self) -> bool:
        """Whether the volume's daemon answers."""
        return self._control is not None

    @property
    def subject(self) -> PathSubject:
        """The path, as what a moment is asked about."""
        return PathSubject(self.view_of, self.path)

    def groups_in(self, snapshot: Snapshot) -> GroupTable:
        """The consistency groups of the volume."""
        return GroupTable(snapshot, now_ns=self.log_now_ns, quiet_ns=self.settings.quiet_ns)

    @property
    def log_now_ns(self) -> int:
        """Up to when it is known what happened."""
        with self.journal.snapshot() as snapshot:
            return self.settings.log_clock_ns(snapshot, self.now_ns)

    def newest(self) -> ResolvedPoint:
        """The live state: the newest op, whatever it is worth; of a replica its newest barrier."""
        moment = AtTime(TimeNs(self.now_ns))
        return resolve(
            self.journal, moment, now_ns=self.now_ns, settings=self.settings, judge_exact=False
        )

    def point(self, moment: str, exact: bool = False, node: NodeId | None = None) -> ResolvedPoint:
        """The point that a moment means for the path; what was chosen in reading it is noted.

        `node` is what `@before-last-write` is about. Notes go to stderr.
        """
        text = moment
        if exact and not text.lower().rstrip().endswith("!exact"):
            text += "!exact"
        found = resolve(
            self.journal,
            parse_moment(text, now_ns=self.now_ns, zone=None),
            now_ns=self.now_ns,
            node=node,
            subject=self.subject,
            settings=self.settings,
        )
        if found.note:
            note(f"cdpfs: {moment}: {found.note}")
        return found

    def point_for_path(self, moment: str, exact: bool = False) -> ResolvedPoint:
        """The same, where `@before-last-write` is about the path that the command names."""
        try:
            return self.point(moment, exact)
        except MomentError:
            if "before-last-write" not in moment.lower():
                raise
        node = self.view(self.newest()).walk(self.path).node
        return self.point(moment, exact, node)

    def say_point(self, moment: str, point: ResolvedPoint) -> None:
        """Tell on stderr what a moment came to, and a caution if something is half done there."""
        note(f"cdpfs: {moment} is {point_sentence(point)}")
        caution = caution_about(point)
        if caution:
            note(f"cdpfs: {caution}")

    def view_of(self, lsn: Lsn) -> View:
        """The volume as of an LSN."""
        return View(self.journal, lsn, self.demand)

    def view(self, point: ResolvedPoint) -> View:
        """The volume as of `point`."""
        return self.view_of(point.lsn)

    def companions(self, view: View) -> list[Companion]:
        """The files that belong to the path."""
        now = self.view(self.newest())
        return find_companions(
            view, now, self.path, now_ns=self.log_now_ns, quiet_ns=self.settings.quiet_ns
        )

    def demand(self, lacking: NotSeeded) -> None:
        """Have the daemon put into the journal what is not there yet; NotSeeded without one."""
        if self._control is None and self.place.store.config.replica:
            lacking.hint = (
                "the initial backup had not come to it when this replica ended; it comes with "
                "what is sent next"
            )
            raise lacking
        if self._control is None:
            where = self.place.store.config.mount_point
            lacking.hint = (
                "the initial backup has not come to it; mount the volume, then try again: "
                f"cdpfs mount {where}"
            )
            raise lacking
        wanted: dict[str, object] = {"node": lacking.node}
        if lacking.name is not None:
            wanted["name"] = os.fsdecode(lacking.name)
        if lacking.region is not None:
            wanted["region"] = lacking.region
        self._control.call("seed", wanted)

    def seed_below(self, node: NodeId) -> None:
        """Have everything below a directory in the journal, quicker than piece by piece.

        Without a daemon, and where the directory is gone, what is lacking is met later.
        """
        if self._control is None:
            return
        seeding = self._control.call("status")["seeding"]
        if isinstance(seeding, dict) and not seeding.get("complete"):
            with contextlib.suppress(DaemonError):
                self._control.call("seed", {"node": node, "subtree": True})

    def close(self) -> None:
        """Let go of the journal and the daemon."""
        self.journal.close()
        if self._control is not None:
            self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _tell_if_incomplete(answer: dict[str, object]) -> None:
    if not answer.get("complete", True):
        note("cdpfs: the store is full or fails: the newest changes are missing; see cdpfs status")
