"""The steps that change a tree back: what they are, and how they are carried out.

Duty: carry out a list of steps, in order, through plain OS calls in a `Place`; report what was
done, what could not be, and why. Plans are made in `timetravel/restore.py` and
`timetravel/undo.py`. Synchronous; one thread, and one that reads ahead. Through a mount of the
volume every step is an op like any other, so it can be undone.

How a file comes back:

- CREATE and REPLACE write a file under a temporary name beside the final one, give it its
  attributes, and rename it: whoever opens the name finds the old file or the whole new one. With
  REPLACE, who has the old file open keeps the old one.
- REWRITE changes the existing file, only where it differs: for a file with further hard links,
  which must go on being one file, and for undoing changes that were made in place. It is not
  atomic.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from store.errors import StoreError
from store.types import NO_NODE, NodeId
from timetravel.attributes import apply_attributes
from timetravel.content import fill, rewrite
from timetravel.errors import TimetravelError
from timetravel.place import Place
from timetravel.readable import Readable
from timetravel.view import NodeState, View

TEMPORARY_PREFIX: Final = b".cdpfs-restore-"
"""Start of the names of half-made files; what a crash leaves behind can be deleted."""

_MAX_FAILURES: Final = 10_000
"""Failures that a report names; more are only counted."""

_STOPPING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What will meet every further step too."""

_WITHOUT_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC


class Action(Enum):
    """What a step does with its path."""

    MAKE_DIRECTORY = "make directory"
    DIRECTORY = "set directory"  # it is there; gets its attributes at the end
    CREATE = "create"
    REPLACE = "replace"
    REWRITE = "rewrite"
    LINK = "link"  # to `other`, which is there by then
    ATTRIBUTES = "set attributes"
    MOVE = "move"  # from `other`
    REMOVE = "remove"  # a directory must be empty by then
    KEEP = "keep"  # a directory with a node still gets its times back if its names change


_CHANGES_NAMES: Final = frozenset(
    {
        Action.MAKE_DIRECTORY,
        Action.CREATE,
        Action.REPLACE,
        Action.LINK,
        Action.MOVE,
        Action.REMOVE,
    }
)


_READS: Final = frozenset({Action.CREATE, Action.REPLACE})
"""Files that are read from the beginning."""


class Step(NamedTuple):
    """One step. Paths are relative to the place."""

    action: Action
    path: bytes
    node: NodeId = NO_NODE
    """What the view has for the path; NO_NODE for steps that need nothing from it."""
    size_bytes: int = 0
    """Content that the step brings back: what progress is measured by."""
    other: bytes = b""


class Failure(NamedTuple):
    """A path that could not be brought back, and why, for people."""

    path: bytes
    reason: str


@dataclass
class Report:
    """What was done. `ok` is what an exit code depends on."""

    done: dict[Action, int] = field(default_factory=dict)
    """Steps carried out, by action."""
    written_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    failure_count: int = 0
    notes: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Shortcomings that leave the content right: text → (how often, the first path)."""
    stopped: bool = False
    """The destination takes no more; steps after the last failure were not tried."""

    @property
    def ok(self) -> bool:
        """Nothing failed (there may be notes)."""
        return not self.failure_count

    def fail(self, path: bytes, reason: str) -> None:
        """Record a failure."""
        self.failure_count += 1
        if len(self.failures) < _MAX_FAILURES:
            self.failures.append(Failure(path, reason))

    def note(self, path: bytes, text: str) -> None:
        """Record a shortcoming."""
        count, first = self.notes.get(text, (0, path))
        self.notes[text] = (count + 1, first)

    def count(self, action: Action) -> None:
        """Record a step that was done."""
        self.done[action] = self.done.get(action, 0) + 1


Progress = Callable[[int, int, int], None]
"""Called with bytes done, bytes in all, and files done."""


def carry_out(
    view: Readable,
    place: Place,
    steps: Iterable[Step],
    *,
    now: View | None = None,
    verify: bool = True,
    durable: bool = True,
    progress: Progress | None = None,
    partial_name: Callable[[bytes], bytes] | None = None,
) -> Report:
    """Carry out `steps`; one that fails does not keep the others from being tried.

    `now` is a view of the present when the place is a mount of the same volume and the nodes to
    rewrite are the same (it saves reading). `verify` reads back what was written; `durable` has
    it on disk before returning. Half-made files are kept under `partial_name` of their paths, for
    a later run, instead of being removed. Only bugs raise, and what ends a line to a vault.
    """
    steps = list(steps)
    total = sum(step.size_bytes for step in steps)
    with (
        ThreadPoolExecutor(1, "restore-read-ahead") as readers,
        view.expecting((step.node, step.size_bytes) for step in steps if step.action in _READS),
    ):
        work = _Work(view, place, now, verify, readers, progress, total)
        work.partial_name = partial_name
        for step in steps:
            if not work.do(step):
                break
        work.finish_directories()
    if durable:
        work.flush()
    return work.report


class _Work:
    """One run of steps. `self.report` fills as it goes."""

    def __init__(
        self,
        view: Readable,
        place: Place,
        now: View | None,
        verify: bool,
        readers: ThreadPoolExecutor,
        progress: Progress | None,
        total_bytes: int,
    ) -> None:
        self.report = Report()
        self._view = view
        self._place = place
        self._now = now
        self._verify = verify
        self._readers = readers
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._done_files = 0
        self._temporaries = 0
        self._directories: list[Step] = []
        """Directories whose attributes are set at the end: making entries changes their times."""
        self._quiet: dict[bytes, Step] = {}
        """Directories that need nothing unless a step changes their names."""
        self.partial_name: Callable[[bytes], bytes] | None = None
        """Names of half-made files that stay; None: they are removed."""
        self._lost: bytes | None = None
        """A directory that could not be made: what is below it is not tried."""

    def do(self, step: Step) -> bool:
        """Carry out one step and record how it went; False if no further one makes sense."""
        if self._lost is not None and step.path.startswith(self._lost + b"/"):
            self.report.failure_count += 1
            return True
        before = self._done_bytes
        try:
            _ACTIONS[step.action](self, step)
        except (OSError, StoreError, TimetravelError) as error:
            self.report.fail(step.path, _reason(error))
            if step.action is Action.MAKE_DIRECTORY:
                self._lost = step.path
            if isinstance(error, OSError) and error.errno in _STOPPING:
                self.report.stopped = True
                return False
        else:
            self.report.count(step.action)
            if step.action in _CHANGES_NAMES:
                self._stir(step)
        self._advance(before + step.size_bytes - self._done_bytes)
        return True

    def _stir(self, step: Step) -> None:
        """The names of the step's directory changed, and with them its times."""
        for path in (step.path, step.other):
            quiet = self._quiet.pop(path.rpartition(b"/")[0], None)
            if quiet is not None:
                self._directories.append(quiet)

    def finish_directories(self) -> None:
        """Give directories their attributes, the deepest first."""
        for step in sorted(self._directories, key=lambda step: step.path, reverse=True):
            try:
                state = self._view.state(step.node)
                self._apply(self._place.directory(step.path), step.path, state)
            except (OSError, StoreError, TimetravelError) as error:
                self.report.fail(step.path, _reason(error))

    def flush(self) -> None:
        """Everything written is on disk when it returns, or there is a failure in the report."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self._place.directory(b"")):
            self.report.fail(b"", f"flushing to disk: {os.strerror(ctypes.get_errno())}")

    # Actions

    def _make_directory(self, step: Step) -> None:
        fd, name = self._place.parent(step.path)
        # Private until it has its own attributes, at the end.
        os.mkdir(name, 0o700, dir_fd=fd)
        self._directories.append(step)

    def _directory(self, step: Step) -> None:
        self._directories.append(step)

    def _put(self, step: Step) -> None:
        """Make the entry under a temporary name, then rename it."""
        state = self._view.state(step.node)
        fd, name = self._place.parent(step.path)
        stays = self.partial_name is not None and stat.S_ISREG(state.mode)
        temporary = self._temporary_name()
        if self.partial_name is not None and stays:
            temporary = self.partial_name(step.path)
        try:
            if stat.S_ISREG(state.mode):
                self._put_file(step, state, fd, temporary)
            else:
                _make_special(state, fd, temporary)
                self._apply_by_name(fd, temporary, step.path, state)
            if step.action is Action.CREATE and self._place.stat(step.path) is not None:
                raise FileExistsError(errno.EEXIST, "it appeared while the restore ran")
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            if not stays:
                _remove_if_there(fd, temporary)
            raise
        self._done_files += 1

    def _put_file(self, step: Step, state: NodeState, directory: int, name: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | _WITHOUT_LINK
        flags |= os.O_EXCL if self.partial_name is None else os.O_NONBLOCK
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            _refuse_shared(fd)
            self.report.written_bytes += fill(
                self._view,
                step.node,
                state.size_bytes,
                fd,
                verify=self._verify,
                readers=self._readers,
                advance=self._advance,
            )
            self._apply(fd, step.path, state)
        finally:
            os.close(fd)

    def _rewrite(self, step: Step) -> None:
        state = self._view.state(step.node)
        directory, name = self._place.parent(step.path)
        fd = os.open(name, os.O_RDWR | _WITHOUT_LINK | os.O_NONBLOCK, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file any more")
            self.report.written_bytes += rewrite(
                self._view,
                step.node,
                state.size_bytes,
                fd,
                now=self._now,
                verify=self._verify,
                advance=self._advance,
            )
            self._apply(fd, step.path, state)
        finally:
            os.close(fd)
        self._done_files += 1

    def _link(self, step: Step) -> None:
        source = self._place.stat(step.other)
        found = self._place.stat(step.path)
        if source is None:
            raise FileNotFoundError(errno.ENOENT, "what it is a link to is missing")
        if found is not None and (found.st_dev, found.st_ino) == (source.st_dev, source.st_ino):
            return
        source_fd, source_name = self._place.parent(step.other)
        fd, name = self._place.parent(step.path)
        temporary = self._temporary_name()
        os.link(source_name, temporary, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)
        try:
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            _remove_if_there(fd, temporary)
            raise

    def _attributes(self, step: Step) -> None:
        fd, name = self._place.parent(step.path)
        self._apply_by_name(fd, name, step.path, self._view.state(step.node))

    def _move(self, step: Step) -> None:
        source_fd, source_name = self._place.parent(step.other)
        fd, name = self._place.parent(step.path)
        if self._place.stat(step.path) is not None:
            raise FileExistsError(errno.EEXIST, "something is in the way")
        os.rename(source_name, name, src_dir_fd=source_fd, dst_dir_fd=fd)
        # If it is a directory, descriptors below it are known by the wrong path now.
        self._place.forget()

    def _remove(self, step: Step) -> None:
        found = self._place.stat(step.path)
        if found is None:
            return
        fd, name = self._place.parent(step.path)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=fd)
            self._place.forget()
        else:
            os.unlink(name, dir_fd=fd)

    def _keep(self, step: Step) -> None:
        if step.node:
            self._quiet[step.path] = step

    # Parts

    def _apply(self, fd: int, path: bytes, state: NodeState) -> None:
        xattrs = self._view.xattrs(state.node)
        apply_attributes(fd, state, xattrs, lambda text: self.report.note(path, text))

    def _apply_by_name(self, directory: int, name: bytes, path: bytes, state: NodeState) -> None:
        """As `_apply`, of whatever stands under the name, symbolic links and devices too."""
        fd = os.open(name, os.O_PATH | _WITHOUT_LINK, dir_fd=directory)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFMT(state.mode):
                raise OSError(errno.EINVAL, "it is of another type now")
            xattrs = self._view.xattrs(state.node)
            # The magic link leads to the very entry, and for a link to the link itself.
            handle = b"/proc/self/fd/%d" % fd
            apply_attributes(handle, state, xattrs, lambda text: self.report.note(path, text))
        finally:
            os.close(fd)

    def _temporary_name(self) -> bytes:
        self._temporaries += 1
        return b"%b%d-%d" % (TEMPORARY_PREFIX, os.getpid(), self._temporaries)

    def _advance(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes, self._done_files)


_ACTIONS: Final[dict[Action, Callable[[_Work, Step], None]]] = {
    Action.MAKE_DIRECTORY: _Work._make_directory,
    Action.DIRECTORY: _Work._directory,
    Action.CREATE: _Work._put,
    Action.REPLACE: _Work._put,
    Action.REWRITE: _Work._rewrite,
    Action.LINK: _Work._link,
    Action.ATTRIBUTES: _Work._attributes,
    Action.MOVE: _Work._move,
    Action.REMOVE: _Work._remove,
    Action.KEEP: _Work._keep,
}


def _make_special(state: NodeState, directory: int, name: bytes) -> None:
    """A symbolic link, device, fifo or socket."""
    if stat.S_ISLNK(state.mode):
        os.symlink(state.target, name, dir_fd=directory)
    else:
        os.mknod(name, stat.S_IFMT(state.mode) | 0o600, state.rdev, dir_fd=directory)


def _refuse_shared(fd: int) -> None:
    """A half-made file of an earlier run must be one, and nobody else's."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise OSError(errno.EEXIST, "something else has the name of the half-made file")


def _remove_if_there(directory: int, name: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _reason(error: OSError | StoreError | TimetravelError) -> str:
    """Why, and what to do about it, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error} ({error.hint})"
