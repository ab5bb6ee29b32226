"""A tape device node of the Linux driver st: its ioctls as the kernel has them.

Duty: bytes in and out of the kernel, and nothing of cdpfs: `OSError` is what it raises. One thread
at a time; every call blocks, a rewind or a search for minutes.

The structures (linux/mtio.h; `long` has 8 bytes on 64-bit machines, where these sizes hold):

    struct mtop,   8 bytes, to MTIOCTOP          struct mtget, 48 bytes, from MTIOCGET
    offset  size  field                          offset  size  field
    0       2     mt_op      MTREW, MTFSF, …     0       8     mt_type
    2       2     (padding)                      8       8     mt_resid   the partition
    4       4     mt_count                       16      8     mt_dsreg   bits 0–23: block size
                                                 24      8     mt_gstat   GMT_…
    struct mtpos,  8 bytes, from MTIOCPOS        32      8     mt_erreg   bits 0–15: soft errors
    0       8     mt_blkno   block address       40      4     mt_fileno  -1: not known
                                                 44      4     mt_blkno   -1: not known

What the driver does with them: Documentation/scsi/st.rst and drivers/scsi/st.c.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from tape.errors import BadSettings

_MTOP: Final = struct.Struct("@hi")
_MTGET: Final = struct.Struct("@5l2i")
_MTPOS: Final = struct.Struct("@l")


def _ioctl_number(direction: int, number: int, size: int) -> int:
    """_IOW (1) and _IOR (2) of asm-generic/ioctl.h, type "m"."""
    return direction << 30 | size << 16 | ord("m") << 8 | number


MTIOCTOP: Final = _ioctl_number(1, 1, _MTOP.size)
MTIOCGET: Final = _ioctl_number(2, 2, _MTGET.size)
MTIOCPOS: Final = _ioctl_number(2, 3, _MTPOS.size)

MTFSF, MTFSR, MTWEOF, MTREW, MTEOM = 1, 3, 5, 6, 12
MTSETBLK, MTSEEK, MTSETDRVBUFFER = 20, 22, 24
"""MTWEOF waits until everything is on the medium; MTWEOFI would not, and is not used."""

GMT_EOF: Final = 0x80000000
GMT_EOT: Final = 0x20000000
GMT_EOD: Final = 0x08000000
GMT_WR_PROT: Final = 0x04000000
GMT_ONLINE: Final = 0x01000000
GMT_DR_OPEN: Final = 0x00040000
GMT_CLN: Final = 0x00008000

MT_ST_CLEARBOOLEANS: Final = 0x40000000
MT_ST_NOWAIT: Final = 0x2000
MT_ST_NOWAIT_EOF: Final = 0x8000

_MAJOR: Final = 9
_NON_REWINDING: Final = 0x80
"""A bit of the minor number (st.rst, "Minor Numbers")."""


class NodeStatus(NamedTuple):
    """What MTIOCGET says."""

    flags: int
    """GMT_… bits."""
    file: int
    """Filemarks before the head; -1 when the driver doesn't know, and too many when a drive
    doesn't say how far it got."""
    block: int
    block_bytes: int
    """0: blocks of any size."""
    soft_errors: int

    def has(self, *flags: int) -> bool:
        """Is any of these set?"""
        return any(self.flags & flag for flag in flags)

    def __str__(self) -> str:
        names = ("EOF", "EOT", "EOD", "WR_PROT", "ONLINE", "DR_OPEN", "CLN")
        bits = (GMT_EOF, GMT_EOT, GMT_EOD, GMT_WR_PROT, GMT_ONLINE, GMT_DR_OPEN, GMT_CLN)
        said = " ".join(name for name, bit in zip(names, bits, strict=True) if self.flags & bit)
        return f"file {self.file}, block {self.block}, {said or 'no flags'}"


class Node(Protocol):
    """An open tape node, the kernel's or a simulated one. Everything raises OSError."""

    def op(self, code: int, count: int = 1) -> None:
        """MTIOCTOP: `code` is MTREW, MTFSF, …"""
        ...

    def status(self) -> NodeStatus:
        """MTIOCGET."""
        ...

    def tell(self) -> int:
        """MTIOCPOS: the block address that MTSEEK takes; EIO where the drive has none."""
        ...

    def read(self, buffer: memoryview) -> int:
        """One block into `buffer`; its size, 0 at a filemark."""
        ...

    def write(self, data: bytes | memoryview) -> int:
        """One block; how much of it was written."""
        ...

    def options(self) -> int:
        """MT_ST_… bits that are set; 0 when that can't be found out."""
        ...

    def command(self, cdb: bytes, answer_bytes: int) -> tuple[bytes, bytes] | None:
        """A SCSI command past the driver: (answer, sense); None when that is not permitted."""
        ...

    def close(self) -> None:
        """The driver ends a file that is being written with a filemark."""
        ...


class TapeNode:
    """An open node of the kernel's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls, path: str, write: bool = True) -> TapeNode:
        """Without waiting for a cartridge. OSError; BadSettings when it is no node for this.

        Not to wait (O_NONBLOCK) also lets a write-protected cartridge be opened.
        """
        check_node(path)
        mode = os.O_RDWR if write else os.O_RDONLY
        return cls(os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC))

    def op(self, code: int, count: int = 1) -> None:
        """See `Node.op`."""
        fcntl.ioctl(self._fd, MTIOCTOP, _MTOP.pack(code, count))

    def status(self) -> NodeStatus:
        """See `Node.status`."""
        answer = fcntl.ioctl(self._fd, MTIOCGET, bytes(_MTGET.size))
        _kind, _partition, dsreg, gstat, erreg, file, block = _MTGET.unpack(answer)
        return NodeStatus(gstat & 0xFFFFFFFF, file, block, dsreg & 0xFFFFFF, erreg & 0xFFFF)

    def tell(self) -> int:
        """See `Node.tell`."""
        answer = fcntl.ioctl(self._fd, MTIOCPOS, bytes(_MTPOS.size))
        (address,) = _MTPOS.unpack(answer)
        return int(address)

    def read(self, buffer: memoryview) -> int:
        """See `Node.read`."""
        return os.readv(self._fd, [buffer])

    def write(self, data: bytes | memoryview) -> int:
        """See `Node.write`."""
        return os.write(self._fd, data)

    def options(self) -> int:
        """See `Node.options`."""
        device = os.fstat(self._fd).st_rdev
        place = Path(f"/sys/dev/char/{os.major(device)}:{os.minor(device)}/options")
        with contextlib.suppress(OSError, ValueError):
            return int(place.read_text(), 16)
        return 0

    def command(self, cdb: bytes, answer_bytes: int) -> tuple[bytes, bytes] | None:
        """See `Node.command`."""
        # Only drives need it, and importing ctypes takes time.
        from tape.scsi import send

        return send(self._fd, cdb, answer_bytes)

    def close(self) -> None:
        """See `Node.close`."""
        os.close(self._fd)


def check_node(path: str) -> None:
    """Is this a tape node that does not rewind when it is closed? BadSettings; OSError."""
    found = os.stat(path)
    if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) != _MAJOR:
        raise BadSettings(
            f"{path} is not a SCSI tape drive", hint="`lsscsi -g` lists them: use /dev/nst0, say"
        )
    if not os.minor(found.st_rdev) & _NON_REWINDING:
        raise BadSettings(
            f"{path} rewinds the cartridge whenever it is closed, and so overwrites what is on it",
            hint=f"name the node that does not: {_non_rewinding(path)}",
        )


def _non_rewinding(path: str) -> str:
    folder, name = os.path.split(path)
    if name.startswith("st"):
        return os.path.join(folder, f"n{name}")
    # As udev names them below /dev/tape/by-id.
    return f"{path}-nst"
