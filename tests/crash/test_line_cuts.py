"""Making a line of history is cut: by a kill at each of its steps, and by a power cut.

For the power cut it is enough to know that nothing of the line was unsynced when it got its name:
what has no line's name is thrown away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replicator.vault.lines import MAKING, clear_half_made, make_line
from replicator.vault.root import VaultRoot
from store import durable
from tests.unit.shipping import all_batches, same_history
from tests.unit.two_machines import TwoMachines, receive


class Killed(BaseException):
    """The process is gone; nothing of it runs any more."""


class StoppingDisk(durable.Disk):
    """The process dies before call number `stop`, of those that change something."""

    def __init__(self, stop: int) -> None:
        self.calls = 0
        self._stop = stop

    def __enter__(self) -> StoppingDisk:
        self._before, durable.disk = durable.disk, self
        return self

    def __exit__(self, *_: object) -> None:
        durable.disk = self._before

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self._stop:
            raise Killed

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._step()
        return super().open(path, flags, mode)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._step()
        return super().pwrite(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._step()
        super().fsync(fd)

    def mkdir(self, path: Path, mode: int) -> None:
        self._step()
        super().mkdir(path, mode)

    def link(self, old: Path, new: Path) -> None:
        self._step()
        super().link(old, new)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def commit(self, index: Path, commit: Callable[[], object]) -> None:
        self._step()
        super().commit(index, commit)


def test_a_kill_at_any_step_leaves_a_whole_line_or_none(tmp_path: Path) -> None:
    machines = TwoMachines(tmp_path / "site", rounds=2)
    main, path = all_batches(machines.main), machines.root.path
    machines.root.close()
    stop = 0
    while True:
        stop += 1
        root = VaultRoot.open(path)
        root.lock()
        with StoppingDisk(stop) as disk, contextlib.suppress(Killed):
            make_line(root, machines.uuid, machines.wish(name=f"fork-{stop}"))
        root.close()
        root = VaultRoot.open(path)
        root.lock()
        clear_half_made(root)
        folder = root.volumes_dir / machines.uuid
        assert not [entry for entry in folder.iterdir() if entry.name.startswith(MAKING)]
        for line in root.lines(machines.uuid)[1:]:
            assert all_batches(root.store(machines.uuid, line)) == main[: machines.shared]
        assert all_batches(machines.main) == main
        again = make_line(root, machines.uuid, machines.wish(name=f"fork-{stop}"))
        receive(root.store(machines.uuid, again), machines.other, start=machines.shared)
        same_history(machines.other, root.store(machines.uuid, again))
        root.close()
        if disk.calls < stop:
            break
        durable.drop_tree(folder / again)  # a volume has so many lines only
    assert stop > 15


class WatchingDisk(durable.Disk):
    """Knows what is not on disk yet; `asked` is told of it before each rename."""

    def __init__(self, asked: Callable[[Path, set[str]], None]) -> None:
        self._asked = asked
        self._paths: dict[int, str] = {}
        self.unsynced: set[str] = set()

    __enter__ = StoppingDisk.__enter__
    __exit__ = StoppingDisk.__exit__

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        fd = super().open(path, flags, mode)
        self._paths[fd] = str(path)
        if flags & os.O_CREAT:
            self.unsynced |= {str(path), os.path.dirname(path)}
        return fd

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        super().close(fd)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self.unsynced.add(self._paths[fd])
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.unsynced.discard(self._paths[fd])

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.unsynced.discard(self._paths[fd])

    def mkdir(self, path: Path, mode: int) -> None:
        super().mkdir(path, mode)
        self.unsynced.add(str(path.parent))

    def link(self, old: Path, new: Path) -> None:
        super().link(old, new)
        self.unsynced.add(str(new.parent))

    def rename(self, old: Path, new: Path) -> None:
        self._asked(new, self.unsynced)
        super().rename(old, new)
        self.unsynced.discard(str(old))
        self.unsynced |= {str(new.parent)}


def test_a_line_has_its_name_only_when_all_of_it_is_on_disk(tmp_path: Path) -> None:
    machines = TwoMachines(tmp_path / "site", rounds=2)
    seen = []

    def asked(new: Path, unsynced: set[str]) -> None:
        if new.name == "fork-1":
            seen.append({path for path in unsynced if MAKING in path})

    with WatchingDisk(asked) as disk:
        make_line(machines.root, machines.uuid, machines.wish())
        folder = str(machines.root.volumes_dir / machines.uuid)
        assert folder not in disk.unsynced
    assert seen == [set()]
    machines.root.close()
