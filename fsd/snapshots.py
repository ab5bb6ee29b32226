"""The past inside the mount: `.snapshots` and the trees below it.

Duty: adapt `timetravel.view.View` to FUSE. Every directory of the live tree has an unlisted entry
`.snapshots`; a name in it is a moment; below a moment stands the directory as it was then: the
same node if it lived then, else whatever stood at the same path.

The same machinery shows a replica, where the tree that the mount shows is a view as well
(`living` inodes): what the past belongs to is behind `Present`, of which `fsd/present.py` and
`fsd/replica.py` have one each.

Views are synchronous and read the journal, so each question runs in a worker thread; when a view
lacks base content, the loop has it brought in (`Present.demand`). The tables here are used on the
loop's thread only.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import pyfuse3
import trio
from pyfuse3 import FUSEError

from fsd.past_file import PastFile
from store.journal import Journal, NodeState, NotSeeded
from store.types import NO_NODE, ROOT, Lsn, NodeId
from timetravel.errors import NoSuchNode, TimetravelError
from timetravel.moment import BeforeLastWrite, Moment, parse_moment
from timetravel.points import selection_for_listing
from timetravel.report import point_fields, point_line
from timetravel.resolve import DirectorySubject, ResolvedPoint, judge, resolve
from timetravel.standing import BarrierSettings
from timetravel.view import View

SNAPSHOTS = b".snapshots"
POINT_XATTR = b"user.cdpfs.point"
"""What the moment came to, in one line."""
POINT_JSON_XATTR = b"user.cdpfs.point.json"
"""The same with everything that is known about it; not listed, so that copies leave it behind."""
FIRST_PAST_INODE = 1 << 62
_FIRST_PAST_HANDLE = 1 << 40

IMMUTABLE_S = 3600.0
"""The kernel may keep what it learns of a view: the past does not change."""
MOMENT_S = 1.0
"""A moment's name can mean another LSN a little later (`@-10m`)."""
MAX_VIEWS = 64
ENTRIES_PER_REQUEST = 128


class Ownership(NamedTuple):
    """Who may enter `.snapshots` of a directory: those who may search the directory itself."""

    mode: int
    uid: int
    gid: int


class Present(Protocol):
    """What a past belongs to: the live tree, or a replica's newest state. Loop's thread."""

    journal: Journal
    settings: BarrierSettings

    async def ownership(self, directory: NodeId) -> Ownership | None:
        """Mode and owner of a directory that is there now; None if it is gone."""
        ...

    async def path_of(self, directory: NodeId) -> bytes:
        """Its path; b"" if it is gone."""
        ...

    async def catch_up(self, moment: Moment | None) -> None:
        """Return when the journal can tell what a moment means, or has everything (None)."""
        ...

    async def demand(self, missing: NotSeeded) -> None:
        """Return when the journal holds what a view lacked. NotSeeded if it can't be had."""
        ...


class PastInode:
    """An inode below `.snapshots`. `view` is None for the `.snapshots` directories themselves.

    `number` is unique for each (view, node). `point` is set at the top of a view. `living`: it is
    in the tree that a replica's mount shows, so `.snapshots` is found in it.
    """

    __slots__ = ("directory", "key", "living", "lookups", "node", "number", "point", "view")

    def __init__(
        self,
        number: int,
        key: tuple[int, int, bool],
        node: NodeId,
        view: View | None,
    ) -> None:
        self.number = number
        self.living = key[2]
        self.key = key
        self.node = node
        self.view = view
        self.lookups = 0
        self.point: ResolvedPoint | None = None
        self.directory = NO_NODE
        """Of the top of a view: the directory of the live tree that it was asked for in."""


class Snapshots:
    """Handlers for inodes and file handles of the past."""

    def __init__(self, present: Present) -> None:
        self.present = present
        self._journal = present.journal
        self._settings = present.settings
        self._numbers = itertools.count(FIRST_PAST_INODE)
        self._handle_numbers = itertools.count(_FIRST_PAST_HANDLE)
        self._inodes: dict[int, PastInode] = {}
        self._by_key: dict[tuple[int, int, bool], PastInode] = {}
        self._views: OrderedDict[int, View] = OrderedDict()
        self._handles: dict[int, Any] = {}
        self.start_soon: Callable[..., object] | None = None
        """That of a nursery which ends before the journal is closed, for reading ahead."""

    # --- inodes -------------------------------------------------------------------------------

    def inode(self, lsn: int, node: NodeId, view: View | None, living: bool = False) -> PastInode:
        """The inode of a node in a view; its `lookups` are the caller's business."""
        key = (lsn, node, living)
        known = self._by_key.get(key)
        if known is None:
            known = PastInode(next(self._numbers), key, node, view)
            self._by_key[key] = known
            self._inodes[known.number] = known
        return known

    def find(self, number: int) -> PastInode:
        """The inode that the kernel means."""
        found = self._inodes.get(number)
        if found is None:
            raise FUSEError(errno.ESTALE)
        return found

    def forget(self, number: int, count: int) -> None:
        """The kernel lets go of an inode."""
        found = self._inodes.get(number)
        if found is not None:
            found.lookups -= count
            if found.lookups <= 0:
                del self._inodes[number]
                del self._by_key[found.key]

    async def entrance(self, directory: NodeId) -> pyfuse3.EntryAttributes:
        """`.snapshots` of a directory that is there now."""
        inode = self.inode(0, directory, None)
        inode.lookups += 1
        return await self._entrance_entry(inode)

    async def _entrance_entry(self, inode: PastInode) -> pyfuse3.EntryAttributes:
        """As searchable as the directory that it stands in; the views have their own modes."""
        owned = await self.present.ownership(inode.node)
        mode, uid, gid = owned or Ownership(0o500, os.geteuid(), os.getegid())
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.number
        entry.st_mode = stat.S_IFDIR | (mode & 0o555)
        entry.st_uid = uid
        entry.st_gid = gid
        entry.st_nlink = 2
        now = time.time_ns()
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = now
        entry.attr_timeout = entry.entry_timeout = MOMENT_S
        return entry

    # --- asking the past ------------------------------------------------------------------------

    async def _in_thread(self, question: Any, *args: Any) -> Any:
        return await trio.to_thread.run_sync(question, *args)

    def _demand_from_thread(self, missing: NotSeeded) -> None:
        trio.from_thread.run(self.present.demand, missing)

    def view(self, lsn: Lsn) -> View:
        """The view of an LSN that is indexed. In a worker thread."""
        return View(self._journal, lsn, self._demand_from_thread)

    async def view_of(self, lsn: Lsn) -> View:
        """The same, from memory if it was asked for just now."""
        known = self._views.get(lsn)
        if known is None:
            known = self._views[lsn] = await self._in_thread(self.view, lsn)
            if len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        return known

    async def lookup(self, parent_number: int, name: bytes) -> pyfuse3.EntryAttributes:
        """A name in `.snapshots` (a moment) or in a directory of a view."""
        parent = self.find(parent_number)
        if parent.view is None:
            return await self._enter(parent.node, name)
        if parent.living and name == SNAPSHOTS:
            return await self.entrance(parent.node)
        state = await self._in_thread(parent.view.lookup, parent.node, name)
        if state is None:
            raise FUSEError(errno.ENOENT)
        return self._entry_in(parent, parent.view, state)

    def _entry_in(self, parent: PastInode, view: View, state: NodeState) -> pyfuse3.EntryAttributes:
        """An entry of a directory of a view."""
        entry = self._entry(view, state, parent.living)
        if parent.living and parent.node == ROOT:
            entry.entry_timeout = MOMENT_S  # soon the same name leads into a newer view
        return entry

    def _entry(self, view: View, state: NodeState, living: bool = False) -> pyfuse3.EntryAttributes:
        inode = self.inode(view.lsn, state.node, view, living)
        inode.lookups += 1
        return past_entry(inode.number, state)

    async def _enter(self, directory: NodeId, name: bytes) -> pyfuse3.EntryAttributes:
        """A directory of the live tree as of a moment."""
        now_ns = time.time_ns()
        try:
            moment = parse_moment(os.fsdecode(name), now_ns=now_ns, zone=None)
        except TimetravelError:
            if not name.startswith(b"@"):
                raise FUSEError(errno.ENOENT) from None
            raise
        await self.present.catch_up(moment)
        about = directory if isinstance(moment, BeforeLastWrite) else None
        path = await self.present.path_of(directory)
        subject = DirectorySubject(self.view, directory, path)

        def ask() -> ResolvedPoint:
            return resolve(
                self._journal,
                moment,
                now_ns=now_ns,
                node=about,
                subject=subject,
                settings=self._settings,
                judge_exact=False,
            )

        point = await self._in_thread(ask)
        view = await self.view_of(point.lsn)
        state = await self._in_thread(same_directory, view, directory, path)
        entry = self._entry(view, state)
        top = self.find(entry.st_ino)
        top.point, top.directory = point, directory
        entry.entry_timeout = MOMENT_S
        return entry

    # --- attributes -------------------------------------------------------------------------------

    async def getattr(self, number: int) -> pyfuse3.EntryAttributes:
        """Attributes."""
        inode = self.find(number)
        if inode.view is None:
            return await self._entrance_entry(inode)
        return past_entry(number, await self._in_thread(inode.view.state, inode.node))

    async def readlink(self, number: int) -> bytes:
        """Target of a symlink."""
        inode = self.find(number)
        if inode.view is None:
            raise FUSEError(errno.EINVAL)
        state: NodeState = await self._in_thread(inode.view.state, inode.node)
        return state.target

    async def _xattrs(self, number: int) -> dict[bytes, bytes]:
        inode = self.find(number)
        if inode.view is None:
            return {}
        found: dict[bytes, bytes] = dict(await self._in_thread(inode.view.xattrs, inode.node))
        if inode.point is not None:
            point = await self._judged(inode)
            found[POINT_XATTR] = point_line(point).encode("utf-8", "backslashreplace")
            found[POINT_JSON_XATTR] = json.dumps(point_fields(point)).encode()
        return found

    async def _judged(self, inode: PastInode) -> ResolvedPoint:
        """What a view's top is worth; for an LSN that was asked for it is found out here."""
        point = inode.point
        assert point is not None
        if point.groups:
            return point
        path = await self.present.path_of(inode.directory)
        subject = DirectorySubject(self.view, inode.directory, path)
        now_ns = time.time_ns()

        def ask() -> ResolvedPoint:
            return judge(self._journal, point, now_ns, subject, self._settings)

        return await self._in_thread(ask)  # type: ignore[no-any-return]

    async def getxattr(self, number: int, name: bytes) -> bytes:
        """Value of an extended attribute; at a view's top also which point it is."""
        value = (await self._xattrs(number)).get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    async def listxattr(self, number: int) -> list[bytes]:
        """Names of the extended attributes."""
        return [name for name in await self._xattrs(number) if name != POINT_JSON_XATTR]

    # --- content ----------------------------------------------------------------------------------

    async def open(self, number: int, flags: int) -> pyfuse3.FileInfo:
        """Open a file of the past for reading."""
        inode = self.find(number)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC or inode.view is None:
            raise FUSEError(errno.EROFS)
        handle = next(self._handle_numbers)
        self._handles[handle] = PastFile(inode.view, inode.node, self.start_soon)
        return pyfuse3.FileInfo(fh=handle, keep_cache=True)

    async def read(self, handle: int, offset: int, size: int) -> bytes:
        """Read from the journal."""
        file: PastFile = self._handles[handle]
        return await file.read(offset, size)

    def release(self, handle: int) -> None:
        """A file or directory of the past is closed."""
        self._handles.pop(handle, None)

    # --- directories ------------------------------------------------------------------------------

    async def opendir(self, number: int) -> int:
        """Open a directory of the past for listing: it is read once, and does not change."""
        inode = self.find(number)
        handle = next(self._handle_numbers)
        if inode.view is None:
            names = await self._recovery_points() if inode.node == 1 else []
            self._handles[handle] = (inode, [(name, None) for name in names])
        else:
            entries = await self._in_thread(inode.view.entries, inode.node)
            self._handles[handle] = (inode, entries)
        return handle

    async def _recovery_points(self) -> list[bytes]:
        """The moments that the mount's root lists in `.snapshots`."""
        await self.present.catch_up(None)
        found = await self._in_thread(
            selection_for_listing, self._journal, time.time_ns(), self._settings
        )
        return [os.fsencode(point.entry_name) for point in found]

    async def readdir(self, handle: int, start: int, token: Any) -> None:
        """The next entries. Positions count from 0, with "." and ".." first."""
        inode, entries = self._handles[handle]
        position = start
        while position < 2:
            entry = await self.getattr(inode.number)
            name = b".." if position else b"."
            if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                return
            position += 1
        batch = entries[position - 2 : position - 2 + ENTRIES_PER_REQUEST]
        if inode.view is None:
            await self._reply_moments(inode, batch, position, token)
            return
        view: View = inode.view
        states = await self._in_thread(states_of, view, [node for _, node in batch])
        for (name, _), state in zip(batch, states, strict=True):
            if state is not None:
                entry = self._entry_in(inode, view, state)
                if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                    self.forget(entry.st_ino, 1)
                    return
            position += 1

    async def _reply_moments(
        self, inode: PastInode, batch: list[tuple[bytes, None]], position: int, token: Any
    ) -> None:
        for name, _ in batch:
            try:
                entry = await self._enter(inode.node, name)
            except TimetravelError:
                continue
            if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                self.forget(entry.st_ino, 1)
                return
            position += 1


def same_directory(view: View, directory: NodeId, path: bytes) -> NodeState:
    """The directory in the past: by itself if it lived then, else by its path. NoSuchPath."""
    try:
        return view.state(directory)
    except NoSuchNode:
        return view.walk(path)


def states_of(view: View, nodes: list[NodeId]) -> list[NodeState | None]:
    """Attributes of several nodes; None for one that has none (it can't be, but must not hurt)."""
    found: list[NodeState | None] = []
    for node in nodes:
        try:
            found.append(view.state(node))
        except NoSuchNode:
            found.append(None)
    return found


def past_entry(number: int, state: NodeState) -> pyfuse3.EntryAttributes:
    """Attributes in the past as an entry."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = number
    entry.st_mode = state.mode
    entry.st_nlink = max(state.links, 1)
    entry.st_uid = state.uid
    entry.st_gid = state.gid
    entry.st_rdev = state.rdev
    entry.st_size = state.size_bytes
    entry.st_blocks = -(-state.size_bytes // 512)
    entry.st_blksize = 4096
    entry.st_atime_ns = state.atime_ns
    entry.st_mtime_ns = state.mtime_ns
    entry.st_ctime_ns = state.ctime_ns
    entry.attr_timeout = entry.entry_timeout = IMMUTABLE_S
    return entry
