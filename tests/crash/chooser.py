"""Which deed comes next: random, but always one that must succeed.

The chooser looks at the shadow, which is the same as the mount where its writer works.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

from tests.crash.deeds import Deed

MAX_ENTRIES = 90
MAX_WRITE_BYTES = 64 << 10
"""Within one request of the kernel, so that the write has happened or has not."""

MAX_FILE_BYTES = 3 << 20
ATTRIBUTES = ("user.colour", "user.owner", "user.note")


@dataclass
class _Seen:
    """A tree's entries by kind."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Without the top itself."""
    others: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        return [*self.files, *self.folders, *self.others]


class Chooser:
    """Chooses deeds for the tree below `root`/`top`."""

    def __init__(self, root: str, top: str, seed: int) -> None:
        self._root = root
        self._top = top
        self._random = random.Random(seed)
        self._names = 0
        self._prefix = f"{seed:x}"
        self._seen: _Seen | None = None

    def next(self) -> Deed:
        """The next deed; it was chosen for the shadow as it is now."""
        while True:
            if self._seen is None:
                self._seen = self._look()
            kinds = self._content if self._random.random() < 0.6 else self._structure
            deed = kinds()
            if deed is not None:
                if kinds == self._structure:
                    self._seen = None
                return deed

    def _look(self) -> _Seen:
        seen = _Seen()
        base = os.path.join(self._root, self._top)
        for folder, _, _ in os.walk(base):
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = os.path.relpath(entry.path, self._root)
                    if entry.is_dir(follow_symlinks=False):
                        seen.folders.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        seen.files.append(path)
                    else:
                        seen.others.append(path)
        for found in (seen.files, seen.folders, seen.others):
            found.sort()
        return seen

    @property
    def _tree(self) -> _Seen:
        assert self._seen is not None
        return self._seen

    def _new_path(self) -> str:
        self._names += 1
        folder = self._random.choice([self._top, *self._tree.folders])
        odd = self._random.choice(("", "", " with space", "\udcff\udcfe", "ü"))
        return os.path.join(folder, f"{self._prefix}-{self._names}{odd}")

    def _size(self, path: str) -> int:
        return os.lstat(os.path.join(self._root, path)).st_size

    # --- content --------------------------------------------------------------------------

    def _content(self) -> Deed | None:
        if not self._tree.files:
            return None
        rng = self._random
        path = rng.choice(self._tree.files)
        length = rng.choice((1, 100, 4096, 5000, rng.randrange(1, MAX_WRITE_BYTES)))
        size = self._size(path)
        kind = rng.choice(("write", "write", "write", "append", "write_sync", "sync", "truncate"))
        if kind == "sync":
            return Deed(kind, path)
        if kind == "truncate":
            to = rng.choice((0, size // 2, size + 1, rng.randrange(MAX_FILE_BYTES)))
            return Deed("empty", path) if not to else Deed(kind, path, offset=to)
        if kind == "append":
            return None if size > MAX_FILE_BYTES else self._bytes(kind, path, size, length)
        return self._bytes(kind, path, rng.randrange(min(size + 5000, MAX_FILE_BYTES)), length)

    def _bytes(self, kind: str, path: str, offset: int, length: int) -> Deed:
        seed = self._random.randrange(1 << 40)
        return Deed(kind, path, offset=offset, length=length, seed=seed)

    # --- structure ------------------------------------------------------------------------

    def _structure(self) -> Deed | None:
        full = len(self._tree.all) > MAX_ENTRIES
        choices = [self._remove, self._move, self._attributes]
        if full:
            choices.append(self._remove)
        else:
            choices += [self._add, self._add]
        return self._random.choice(choices)()

    def _add(self) -> Deed | None:
        path = self._new_path()
        kinds = ("create", "create", "create", "mkdir", "symlink", "mkfifo", "link")
        kind = self._random.choice(kinds)
        if kind == "symlink":
            return Deed(kind, path, other=self._random.choice(("nowhere", "../x", "y" * 200)))
        if kind == "link":
            if not self._tree.files:
                return None
            return Deed(kind, self._random.choice(self._tree.files), other=path)
        return Deed(kind, path)

    def _remove(self) -> Deed | None:
        if self._random.random() < 0.3:
            empty = [
                path
                for path in self._tree.folders
                if not os.listdir(os.path.join(self._root, path))
            ]
            return Deed("rmdir", self._random.choice(empty)) if empty else None
        names = [*self._tree.files, *self._tree.others]
        return Deed("unlink", self._random.choice(names)) if names else None

    def _move(self) -> Deed | None:
        rng = self._random
        if not self._tree.all:
            return None
        old = rng.choice(self._tree.all)
        kind = rng.choice(("rename", "rename", "replace", "replace", "exchange", "noreplace"))
        if kind in ("rename", "noreplace"):
            new = self._new_path()
        else:
            new = rng.choice(self._tree.all)
        if new == old or (new + "/").startswith(old + "/") or (old + "/").startswith(new + "/"):
            return None
        if kind == "exchange":
            return Deed(kind, old, other=new)
        if kind == "replace":
            is_folder = old in self._tree.folders
            if is_folder != (new in self._tree.folders):
                return None
            if is_folder and os.listdir(os.path.join(self._root, new)):
                return None
            return Deed("rename", old, other=new)
        return Deed(kind, old, other=new)

    def _attributes(self) -> Deed | None:
        rng = self._random
        kind = rng.choice(("chmod", "chown", "utime", "setxattr", "setxattr", "removexattr"))
        if kind in ("setxattr", "removexattr", "chmod"):
            names = [*self._tree.files, *self._tree.folders]
        else:
            names = self._tree.all
        if not names:
            return None
        path = rng.choice(names)
        if kind == "chmod":
            return Deed(kind, path, offset=rng.choice((0o700, 0o755, 0o4711, 0o2775, 0o1777)))
        if kind == "chown":
            ids = (0, 1000, 65534) if os.geteuid() == 0 else (os.geteuid(),)
            groups = (0, 1000, 65534) if os.geteuid() == 0 else (os.getegid(),)
            return Deed(kind, path, offset=rng.choice(ids), length=rng.choice(groups))
        if kind == "utime":
            return Deed(kind, path, offset=rng.randrange(10**9, 2 * 10**18))
        if kind == "setxattr":
            name, length = rng.choice(ATTRIBUTES), rng.randrange(200)
            return Deed(kind, path, other=name, length=length, seed=rng.randrange(99))
        have = os.listxattr(os.path.join(self._root, path), follow_symlinks=False)
        mine = sorted(set(have) & set(ATTRIBUTES))
        return Deed(kind, path, other=rng.choice(mine)) if mine else None
