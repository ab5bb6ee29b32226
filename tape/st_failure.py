"""What an errno of the tape driver means. Pure but for asking the driver how it is.

The one place where `OSError` of a tape node becomes an error of `tape.errors`.
"""

from __future__ import annotations

import contextlib
import errno

from tape.errors import (
    BadSettings,
    DriveDead,
    MediaError,
    NotReady,
    TapeError,
    WriteProtected,
)
from tape.st_ioctl import Node

IN_USE = "in use by another program"


def failure(path: str, doing: str, error: OSError, node: Node | None = None) -> TapeError:
    """The error to raise; with `node` an I/O error is the medium's and not the drive's."""
    said = f"{path}: {doing}: {error.strerror}"
    match error.errno:
        case errno.EIO if node is not None:
            with contextlib.suppress(OSError):
                status = node.status()
                said = f"{said} ({status}, {status.soft_errors} recovered errors)"
            return MediaError(said)
        case errno.EACCES | errno.EROFS:
            return WriteProtected(f"{path}: the cartridge is write-protected")
        case errno.ENOMEDIUM:
            return NotReady(f"drive {path} is empty")
        case errno.EINVAL | errno.EBUSY | errno.EOVERFLOW:
            hint = "take smaller blocks: cdpfs tape calibrate finds a size"
            return BadSettings(f"{said}: not possible with this drive or adapter", hint=hint)
        case _:
            return DriveDead(said)


def open_failure(path: str, error: OSError) -> TapeError:
    """Why a node could not be opened."""
    match error.errno:
        case errno.EBUSY:
            return NotReady(f"drive {path} is {IN_USE}", hint=f"see `fuser {path}`")
        case errno.EACCES | errno.EPERM:
            hint = "run as root, or as a member of the group that owns the node (tape)"
            return DriveDead(f"no permission to use {path}", hint=hint)
        case _:
            return failure(path, "opening it", error)
