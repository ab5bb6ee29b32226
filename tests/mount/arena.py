"""The same place twice: a plain directory, and one that cdpfs protects.

A test lets a real program do the same work in both. Everything that a user could see afterwards
must be equal, and the past of the protected one must be what was there at the time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.mount.fingerprint import Fingerprint, assert_equal, fingerprint
from tests.volume import Volume

Result = TypeVar("Result")
Pause = Callable[[], None]
"""Called by the work while nothing changes the tree: this moment will be looked at again."""

MAX_LOOKS = 10


class Arena:
    """`plain` and `volume.tree`, both empty, reachable for every user; `outside` for the rest."""

    def __init__(self, base: Path, **settings: Any) -> None:
        self.plain = base / "plain"
        self.outside = base / "outside"
        for place in (self.plain, self.outside):
            place.mkdir()
        self.volume = Volume(base, **settings)
        self._moments: list[tuple[int, Fingerprint]] = []

    def pause(self) -> int:
        """Remember what is in the protected tree now; returns the LSN.

        What a stopped program had under way by asynchronous I/O may still come in: look again
        then.
        """
        for _ in range(MAX_LOOKS):
            lsn = self.volume.sync()
            now = fingerprint(self.volume.tree)
            if self.volume.sync() == lsn:
                self._moments.append((lsn, now))
                return lsn
        raise AssertionError("the tree does not come to rest")

    def check_moments(self) -> None:
        """Every remembered moment is in the past as it was."""
        for lsn, then in self._moments:
            assert_equal(fingerprint(self.volume.past(lsn)), then)

    def compare(
        self,
        work: Callable[[Path, Pause], Result],
        *,
        times: bool = False,
        varies: Callable[[bytes], bool] = lambda path: False,
    ) -> Result:
        """Do the work in both places; the results and the trees must be equal.

        The moments at which the work paused are checked at once, and again from a new session.
        """
        wanted = work(self.plain, lambda: None)
        result = work(self.volume.tree, lambda: (self.pause(), None)[1])
        assert result == wanted
        assert_equal(
            fingerprint(self.volume.tree), fingerprint(self.plain), times=times, varies=varies
        )
        assert self._moments, "the work never paused"
        self.check_moments()
        self.check_after_remount()
        return result

    def check_after_remount(self) -> None:
        """Nothing is lost or changed by an orderly end: neither the tree nor its past."""
        live = fingerprint(self.volume.tree)
        self.volume.unmount()
        assert_equal(fingerprint(self.volume.backing), live)
        self.volume.mount()
        assert_equal(fingerprint(self.volume.tree), live)
        self.check_moments()


@contextmanager
def open_arena(**settings: Any) -> Iterator[Arena]:
    """A mounted arena, taken away afterwards; the daemon's log must be free of errors.

    It lies on a disk (O_DIRECT), below a path that every user may enter (servers run as their own
    users) and that is short (sockets).
    """
    parent = os.environ.get("CDPFS_TEST_DIR", "/var/tmp")
    base = Path(tempfile.mkdtemp(prefix="cdpfs-", dir=parent))
    base.chmod(0o755)
    made = Arena(base, **settings)
    try:
        made.volume.mount()
        yield made
        text = made.volume.log_text()
        assert " ERROR " not in text, text
        assert "Traceback" not in text, text
    finally:
        made.volume.close()
        shutil.rmtree(base)
