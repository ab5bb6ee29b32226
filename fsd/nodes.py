"""The nodes that the kernel remembers, and how their backing files are reached.

Duty: one `Node` for each file, directory or other thing that the kernel (or a task of ours) holds,
the tree that they form, and descriptors of directories (a bounded number, opened by walking down
from an open one: no path is ever longer than one name, no symlink is ever followed).

Runs on the loop's thread only. It knows nothing of the journal: names are given to it.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Collection, Iterator

import trio

from store.types import ROOT, NodeId

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DIRECTORY_FDS = 2048
LARGE_BYTES = 16 << 20
"""Of a file this large the space is not freed on the loop."""


class Node:
    """A node in memory.

    `parent` and `name` are one way to reach it; both stay when it is unlinked, but then `fd`
    (O_PATH) holds it. `lookups` is the kernel's count, `uses` counts open handles and tasks.
    `touched_ns` is an mtime that the backing file does not have yet, 0 for none.
    `unseeded` tracks base content that is not in the journal yet, None when all of it is.
    `privileged`: it has set-id bits or file capabilities, which a write takes away.
    `plain`: it is known to have no file capabilities. The kernel asks for them at the first write
    after each look at the attributes.
    `default_acl`: directories: does it pass on an ACL? None: not looked at yet.
    """

    __slots__ = (
        "children",
        "default_acl",
        "fd",
        "id",
        "is_dir",
        "linked",
        "lookups",
        "name",
        "parent",
        "plain",
        "privileged",
        "touched_ns",
        "unseeded",
        "uses",
    )

    def __init__(self, node: NodeId, parent: Node | None, name: bytes, is_dir: bool) -> None:
        self.id = node
        self.parent = parent
        self.name = name
        self.is_dir = is_dir
        self.linked = True
        self.lookups = 0
        self.uses = 0
        self.children: dict[bytes, Node] | None = None
        self.fd = -1
        self.touched_ns = 0
        self.unseeded: object | None = None
        self.privileged = False
        self.plain = False
        self.default_acl: bool | None = None


class NodeTable:
    """All nodes in memory. The root stays for ever."""

    def __init__(self, root_fd: int) -> None:
        self.root = Node(ROOT, None, b"", True)
        self.root.fd = root_fd
        self.by_id: dict[int, Node] = {ROOT: self.root}
        self._open_dirs: OrderedDict[int, Node] = OrderedDict()
        self.removed: set[int] = set()
        """NodeIds of nodes that have lost the name they were reached by, and are held."""
        self.released = 0
        """How many of them were let go so far."""
        self._freeing: set[trio.Event] = set()
        self.pinned: Collection[int] = ()
        """NodeIds of nodes that stay in memory, used or not, unless they have lost their name."""

    # --- the tree in memory ---------------------------------------------------------------

    def add(self, node: NodeId, parent: Node, name: bytes, is_dir: bool) -> Node:
        """The node under this name; the one that is known already if there is one."""
        known = self.by_id.get(node)
        if known is None:
            known = self.by_id[node] = Node(node, parent, name, is_dir)
            self._attach(known)
        return known

    def child(self, parent: Node, name: bytes) -> Node | None:
        """The node under a name, if it is in memory under just this name."""
        children = parent.children
        return None if children is None else children.get(name)

    def _attach(self, node: Node) -> None:
        assert node.parent is not None
        if node.parent.children is None:
            node.parent.children = {}
        node.parent.children[node.name] = node

    def _detach(self, node: Node) -> None:
        parent = node.parent
        if parent is not None and parent.children is not None:
            if parent.children.get(node.name) is node:
                del parent.children[node.name]
            if not parent.children:
                parent.children = None

    def move(self, node: Node, parent: Node, name: bytes) -> None:
        """The node is reached by another name from now on."""
        old = node.parent
        self._detach(node)
        self.removed.discard(node.id)
        node.parent, node.name, node.linked = parent, name, True
        self._attach(node)
        if old is not None and old is not parent:
            self.drop_if_unused(old)

    def unlink(self, node: Node) -> None:
        """The name by which it was reached is gone; `hold` was called before where needed."""
        self._detach(node)
        node.linked = False
        self.removed.add(node.id)

    def hold(self, node: Node) -> None:
        """Keep the backing file reachable whatever happens to its name (O_PATH)."""
        if node.fd < 0:
            node.fd = self.open_path(node)
        elif node.is_dir:
            self._open_dirs.pop(node.id, None)

    def drop_if_unused(self, node: Node) -> None:
        """Forget a node that nobody holds any more, and then its parents likewise."""
        here: Node | None = node
        while (
            here is not None
            and not here.lookups
            and not here.uses
            and not here.children
            and here is not self.root
            and not (here.linked and here.id in self.pinned)
            and (not here.touched_ns or self._has_no_name(here))
        ):
            here.touched_ns = 0
            parent = here.parent
            if here.linked:
                self._detach(here)
            # Somebody may still have had an object that was dropped before: its node lives on.
            if self.by_id.get(here.id) is here:
                del self.by_id[here.id]
                if here.id in self.removed:
                    self.removed.discard(here.id)
                    self.released += 1
            if self._open_dirs.get(here.id) is here:
                del self._open_dirs[here.id]
            if here.fd >= 0:
                (os.close if here.linked else self.close_removed)(here.fd)
                here.fd = -1
            here = parent

    def close_removed(self, fd: int) -> None:
        """Close a descriptor of a file that may have no name any more.

        The last one of a large file is closed in a thread: its space is freed then, which kept the
        loop busy for 185 ms where the file had 1 GiB.
        """
        status = os.fstat(fd)
        if status.st_nlink or status.st_size < LARGE_BYTES:
            os.close(fd)
        else:
            freed = trio.Event()
            self._freeing.add(freed)
            trio.lowlevel.spawn_system_task(self._close_in_thread, fd, freed)

    async def _close_in_thread(self, fd: int, freed: trio.Event) -> None:
        try:
            await trio.to_thread.run_sync(os.close, fd)
        finally:
            self._freeing.discard(freed)
            freed.set()

    async def wait_freed(self) -> bool:
        """Return when no large file is being freed; was there one?"""
        under_way = tuple(self._freeing)
        for freed in under_way:
            await freed.wait()
        return bool(under_way)

    @staticmethod
    def _has_no_name(node: Node) -> bool:
        """Will nobody ever see its times? With another hard link the backing file goes on."""
        try:
            return not node.linked and node.fd >= 0 and not os.fstat(node.fd).st_nlink
        except OSError:
            return False

    def path_of(self, node: Node) -> bytes:
        """The path from the root, for people and logs."""
        names = []
        here: Node | None = node
        while here is not None and here.parent is not None:
            names.append(here.name)
            here = here.parent
        return b"/".join(reversed(names))

    # --- the backing files ------------------------------------------------------------------

    def dir_fd(self, node: Node) -> int:
        """A descriptor (O_PATH) of a directory, good until the next call but a few."""
        if node.fd >= 0:
            if node.id in self._open_dirs:
                self._open_dirs.move_to_end(node.id)
            return node.fd
        missing = []
        here = node
        while here.fd < 0:
            missing.append(here)
            assert here.parent is not None
            here = here.parent
        fd = here.fd
        for step in reversed(missing):
            fd = step.fd = os.open(step.name, _DIRECTORY_FLAGS, dir_fd=fd)
            self._open_dirs[step.id] = step
            if len(self._open_dirs) > MAX_DIRECTORY_FDS:
                _, oldest = self._open_dirs.popitem(last=False)
                os.close(oldest.fd)
                oldest.fd = -1
        return fd

    def stat(self, node: Node) -> os.stat_result:
        """lstat of the backing file."""
        if node.fd >= 0:
            return os.fstat(node.fd)
        assert node.parent is not None
        return os.stat(node.name, dir_fd=self.dir_fd(node.parent), follow_symlinks=False)

    def open_path(self, node: Node) -> int:
        """A new descriptor of the backing file itself (O_PATH); the caller closes it."""
        if node.fd >= 0:
            return os.dup(node.fd)
        assert node.parent is not None
        return os.open(node.name, _PATH_FLAGS, dir_fd=self.dir_fd(node.parent))

    def open(self, node: Node, flags: int) -> int:
        """Open the backing file of a regular file or directory; the caller closes it."""
        flags |= os.O_CLOEXEC
        if node.fd >= 0:
            # O_NOFOLLOW would refuse the magic link; the node itself is no symlink.
            return os.open(f"/proc/self/fd/{node.fd}", flags & ~os.O_NOFOLLOW)
        assert node.parent is not None
        return os.open(node.name, flags | os.O_NOFOLLOW, dir_fd=self.dir_fd(node.parent))

    def magic_path(self, node: Node) -> bytes:
        """A path for calls that know neither descriptors nor dir_fd; for *l* calls only.

        The last part may be a symlink: only calls that do not follow it may use the path.
        """
        if node.fd >= 0 and (node.is_dir or node.parent is None or not node.linked):
            return b"/proc/self/fd/%d" % node.fd
        assert node.parent is not None
        return b"/proc/self/fd/%d/%b" % (self.dir_fd(node.parent), node.name)

    def has_fd_path(self, node: Node) -> bool:
        """Does `magic_path` end in a magic link (which calls must follow)?"""
        return node.fd >= 0 and (node.is_dir or node.parent is None or not node.linked)

    def all(self) -> Iterator[Node]:
        """Every node in memory."""
        return iter(tuple(self.by_id.values()))


def is_directory(status: os.stat_result) -> bool:
    """Is it a directory?"""
    return stat.S_ISDIR(status.st_mode)
