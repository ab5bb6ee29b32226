"""The folder in which one restore from tape puts what it reads, and takes away at its end.

Duty: one folder for each destination, so that the next restore to the same place finds and removes
what a killed one left; never that of one that still runs, or of somebody else. Blocking; any
process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from console.errors import ConsoleError
from console.exit_codes import ExitCode
from console.output import path_text

PREFIX = ".cdpfs-restore-tape-"
_LOCK_NAME = "lock"
_WORK_NAME = "work"


@contextlib.contextmanager
def restore_scratch(parent: Path, target: str) -> Iterator[Path]:
    """An empty folder below `parent`, for a restore to `target`, until the block ends.

    ConsoleError while another restore to it runs, or when somebody else has the folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    digest = blake3(os.fsencode(os.path.abspath(target))).hexdigest()[:16]
    folder = parent / f"{PREFIX}{digest}"
    lock = _locked(folder, target)
    try:
        work = folder / _WORK_NAME
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(0o700)
        yield work
    finally:
        shutil.rmtree(folder / _WORK_NAME, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(folder / _LOCK_NAME)
            folder.rmdir()
        os.close(lock)


def _locked(folder: Path, target: str) -> int:
    """The descriptor of the folder's lock; the folder is made for it."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        try:
            _check_owner(folder)
            path = folder / _LOCK_NAME
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # another one has just ended
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise ConsoleError(
                f"another restore to {path_text(target)} is going on",
                "wait until it has ended, or restore to another place",
                code=ExitCode.BUSY,
            ) from None
        except FileNotFoundError:
            pass
        os.close(fd)


def _check_owner(folder: Path) -> None:
    """What lies there may be a trap where others may write: /tmp. ConsoleError."""
    found = os.lstat(folder)
    if not os.path.isdir(folder) or os.path.islink(folder) or found.st_uid != os.geteuid():
        raise ConsoleError(
            f"{path_text(str(folder))} belongs to somebody else",
            "give another place: --scratch DIR",
            code=ExitCode.PERMISSION,
        )
    os.chmod(folder, 0o700)
