"""Random changes of a recorded tree: every kind of entry and of change, seeded."""

from __future__ import annotations

import os
import random
import stat

from tests.unit.recorded_tree import RecordedTree

NAMES = [b"a", b"b", b"c", b"d", b"weird \xff\n", b"x" * 200]


class RandomChanges:
    """Makes one random change after the other, below `below`."""

    def __init__(self, tree: RecordedTree, seed: int, below: bytes = b"") -> None:
        self.tree = tree
        self.rng = random.Random(seed)
        self.below = below

    def run(self, count: int) -> None:
        """That many changes."""
        actions = [
            self.make, self.make, self.make, self.make, self.write, self.write, self.truncate,
            self.rename, self.rename, self.remove, self.link, self.attributes, self.save,
            self.exchange,
        ]  # fmt: skip
        for _ in range(count):
            self.rng.choice(actions)()
            if self.rng.random() < 0.1:
                self.tree.commit()

    def _entries(self) -> list[tuple[bytes, os.stat_result]]:
        found = []
        pending = [self.below]
        while pending:
            path = pending.pop()
            state = os.lstat(self.tree.path(path))
            found.append((path, state))
            if stat.S_ISDIR(state.st_mode):
                names = sorted(os.listdir(self.tree.path(path)))
                pending.extend(os.path.join(path, name) for name in names)
        return found

    def _pick(self, test: str = "any") -> bytes | None:
        """An entry of a kind, not the top itself unless a directory is asked for."""
        found = []
        for path, state in self._entries():
            is_directory = stat.S_ISDIR(state.st_mode)
            right = {
                "directory": is_directory,
                "file": stat.S_ISREG(state.st_mode),
                "other": not is_directory,
                "any": path != self.below,
            }
            if right[test]:
                found.append(path)
        return self.rng.choice(found) if found else None

    def _free_path(self) -> bytes | None:
        path = os.path.join(self._pick("directory") or self.below, self.rng.choice(NAMES))
        return None if os.path.lexists(self.tree.path(path)) else path

    def _data(self) -> bytes:
        size = self.rng.choice([0, 1, 100, 5000, 70_000, 200_000])
        return bytes(size) if self.rng.random() < 0.2 else self.rng.randbytes(size)

    def make(self) -> None:
        """A new entry of some type."""
        path = self._free_path()
        if path is None:
            return
        kind = self.rng.choice(["directory", "directory", "file", "file", "file", "link", "fifo"])
        if kind == "directory":
            self.tree.mkdir(path)
        elif kind == "link":
            self.tree.symlink(self.rng.choice([b"/etc", b"a", b"nowhere/x"]), path)
        elif kind == "fifo":
            self.tree.mkfifo(path)
        else:
            self.tree.write(path, self._data())

    def write(self) -> None:
        """Bytes somewhere into a file."""
        path = self._pick("file")
        if path is not None:
            offset = self.rng.choice([0, 0, 10, 65536, 300_000, 2 << 20])
            self.tree.write(path, self._data(), offset)

    def truncate(self) -> None:
        """Another size for a file."""
        path = self._pick("file")
        if path is not None:
            self.tree.truncate(path, self.rng.choice([0, 10, 100_000, 3 << 20]))

    def save(self) -> None:
        """A file replaced as editors do it."""
        path = self._pick("file")
        if path is not None:
            temporary = os.path.join(os.path.dirname(path), b".tmp")
            self.tree.write(temporary, self._data())
            self.tree.rename(temporary, path)

    def rename(self) -> None:
        """An entry to another name, perhaps over a file."""
        old = self._pick()
        directory = self._pick("directory")
        if old is None or directory is None:
            return
        new = os.path.join(directory, self.rng.choice(NAMES))
        full_old, full_new = self.tree.path(old), self.tree.path(new)
        if (new + b"/").startswith(old + b"/"):
            return
        if os.path.lexists(full_new):
            both = [os.lstat(full_old), os.lstat(full_new)]
            directories = [stat.S_ISDIR(state.st_mode) for state in both]
            if any(directories) or both[0].st_ino == both[1].st_ino:
                return
        self.tree.rename(old, new)

    def exchange(self) -> None:
        """Two entries swap places."""
        one, two = self._pick(), self._pick()
        if one is None or two is None:
            return
        inside = (one + b"/").startswith(two + b"/") or (two + b"/").startswith(one + b"/")
        same = os.path.samestat(os.lstat(self.tree.path(one)), os.lstat(self.tree.path(two)))
        if not inside and not same:
            self.tree.exchange(one, two)

    def remove(self) -> None:
        """An entry with everything in it."""
        path = self._pick()
        if path is not None and self.rng.random() < 0.5:
            self.tree.remove_tree(path)

    def link(self) -> None:
        """A further name for something."""
        source, path = self._pick("other"), self._free_path()
        if source is not None and path is not None:
            self.tree.link(source, path)

    def attributes(self) -> None:
        """Mode, owner, times or extended attributes."""
        path = self._pick()
        if path is None:
            return
        is_link = os.path.islink(self.tree.path(path))
        is_file = os.path.isfile(self.tree.path(path)) and not is_link
        match self.rng.choice(["mode", "times", "xattr", "owner"]):
            case "mode" if not is_link:
                self.tree.chmod(path, self.rng.choice([0o755, 0o700, 0o1777, 0o644, 0o640]))
            case "times":
                when = self.rng.randrange(2**60)
                self.tree.utime(path, when, when + 5)
            case "owner" if os.geteuid() == 0:
                self.tree.chown(path, self.rng.choice([0, 7]), self.rng.choice([0, 8]))
            case "xattr" if is_file:
                if self.rng.random() < 0.3 and os.listxattr(self.tree.path(path)):
                    self.tree.removexattr(path, b"user.test")
                else:
                    self.tree.setxattr(path, b"user.test", self.rng.randbytes(20))
