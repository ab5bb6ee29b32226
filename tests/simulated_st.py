"""The tape driver st and a drive, as far as `tape.st_ioctl.Node` shows them.

Follows drivers/scsi/st.c in what a program can see of it: variable blocks, the flags of MTIOCGET,
the file numbers that are lost by MTSEEK, ENOSPC at the early warning and at every other write
behind it, asynchronous writes whose errors come later. What a drive can do to it is switched on by
the attributes of `SimulatedSt`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from tape import st_ioctl
from tape.st_ioctl import NodeStatus

MARK = None
"""A filemark among the blocks of a medium."""


@dataclass
class SimulatedSt:
    """A drive, its cartridge, and what the kernel keeps of them while the node is not open."""

    blocks: list[bytes | None] = field(default_factory=list)
    """What is on the cartridge: blocks and filemarks."""
    early_at: int = 1 << 60
    """So many bytes before the early warning."""
    full_at: int = 1 << 60
    locates: bool = True
    """READ POSITION and LOCATE work."""
    says_blank: bool = True
    """A search that ends at the end of the data says so, and how far it got. Otherwise it fails,
    and a read there succeeds with a whole buffer of nothing."""
    loaded: bool = True
    ready: bool = True
    protected: bool = False
    asynchronous: bool = False
    option_bits: int = 0
    root: bool = True
    sense: bytes = b""
    tape_alert: bytes = b""
    limits: bytes = bytes([0, 0x80, 0, 0, 0, 1])
    dead: int = 0
    """An errno that everything fails with."""
    bad_blocks: set[int] = field(default_factory=set)
    """Places that can't be read."""
    fail_writes_at: int = -1
    """The write at this place fails: at once, or later if writes are asynchronous."""
    fail_marks: bool = False
    opened: int = 0
    done: list[tuple[int, int]] = field(default_factory=list)
    """The operations that were given: code and count."""

    def open(self, path: str, write: bool) -> SimulatedNode:
        """As `TapeNode.open`."""
        if self.dead:
            raise OSError(self.dead, os.strerror(self.dead))
        if self.opened:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.opened += 1
        return SimulatedNode(self)

    def files(self) -> list[list[bytes]]:
        """What a person would find, file by file; the last one has no filemark."""
        files: list[list[bytes]] = [[]]
        for block in self.blocks:
            if block is MARK:
                files.append([])
            else:
                files[-1].append(block)
        return files


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class SimulatedNode:
    """See `tape.st_ioctl.Node`."""

    def __init__(self, st: SimulatedSt) -> None:
        self._st = st
        self._at = 0
        self._file, self._block = 0, 0
        self._eof = ""
        """"", "fm", "eom_ok" (refuse the next write), "eod_1", "eod"."""
        self._writing = False
        self._deferred = False
        self._block_bytes = 0

    # --- the ioctls ---

    def op(self, code: int, count: int = 1) -> None:
        self._check()
        self._st.done.append((code, count))
        if code == st_ioctl.MTSETDRVBUFFER:
            if not self._st.root:
                raise _fail(errno.EPERM)
            self._st.option_bits &= ~(count & 0xFFFFF)
            return
        self._flush()
        if code == st_ioctl.MTSETBLK:
            self._block_bytes = count
        elif code == st_ioctl.MTWEOF:
            self._write_mark()
        elif code == st_ioctl.MTREW:
            self._end_writing()
            self._at = self._file = self._block = 0
            self._eof = ""
        elif code == st_ioctl.MTFSF:
            self._space_files(count)
        elif code == st_ioctl.MTFSR:
            self._space_block()
        elif code == st_ioctl.MTEOM:
            self._to_end()
        elif code == st_ioctl.MTSEEK:
            self._seek(count)
        else:
            raise _fail(errno.ENOSYS)

    def status(self) -> NodeStatus:
        if self._st.dead:
            raise _fail(self._st.dead)
        flags = 0
        if self._st.loaded and self._st.ready:
            flags |= st_ioctl.GMT_ONLINE
            self._flush()
        elif not self._st.loaded:
            flags |= st_ioctl.GMT_DR_OPEN
        if self._eof == "eom_ok":
            flags |= st_ioctl.GMT_EOT
        elif self._eof in ("eod_1", "eod"):
            flags |= st_ioctl.GMT_EOD
        if self._st.protected:
            flags |= st_ioctl.GMT_WR_PROT
        return NodeStatus(flags, self._file, self._block, self._block_bytes, 0)

    def tell(self) -> int:
        self._check()
        self._flush()
        if not self._st.locates:
            raise _fail(errno.EIO)
        return self._at

    def options(self) -> int:
        return self._st.option_bits

    def command(self, cdb: bytes, answer_bytes: int) -> tuple[bytes, bytes] | None:
        if not self._st.root:
            return None
        return {
            0x00: (b"", self._st.sense),
            0x05: (self._st.limits, b""),
            0x4D: (self._st.tape_alert, b""),
        }[cdb[0]]

    def close(self) -> None:
        self._st.opened -= 1
        if not self._st.dead and self._st.loaded:
            self._end_writing()

    # --- reading and writing ---

    def read(self, buffer: memoryview) -> int:
        self._check()
        self._flush()
        self._writing = False
        if self._eof == "eod":
            raise _fail(errno.EIO)
        blocks, place = self._st.blocks, self._at
        if place >= len(blocks):
            return self._read_at_end(buffer)
        if place in self._st.bad_blocks:
            self._block = -1
            raise _fail(errno.EIO)
        self._at += 1
        block = blocks[place]
        if block is MARK:
            self._pass_mark()
            return 0
        self._block += self._block >= 0
        self._eof = ""
        if len(block) > len(buffer):
            raise _fail(errno.ENOMEM)
        buffer[: len(block)] = block
        return len(block)

    def _read_at_end(self, buffer: memoryview) -> int:
        if not self._st.says_blank:
            self._eof = "eod_1" if self._eof == "fm" else "eom_ok"
            return len(buffer)
        if self._eof == "fm":
            self._eof = "eod"
            return 0
        self._block = -1
        raise _fail(errno.EIO)

    def write(self, data: bytes | memoryview) -> int:
        self._check()
        if self._st.protected:
            raise _fail(errno.EACCES)
        self._flush()
        if len(data) > int.from_bytes(self._st.limits[1:4], "big"):
            raise _fail(errno.EINVAL)
        if self._eof == "eom_ok":
            self._eof = "eod_1"
            raise _fail(errno.ENOSPC)
        del self._st.blocks[self._at :]
        used = sum(len(block) for block in self._st.blocks if block is not MARK)
        if used + len(data) > self._st.full_at:
            self._eof = "eom_ok"
            raise _fail(errno.ENOSPC)
        self._writing = True
        if len(self._st.blocks) == self._st.fail_writes_at:
            if not self._st.asynchronous:
                self._block = -1
                raise _fail(errno.EIO)
            self._deferred = True
            return len(data)
        self._st.blocks.append(bytes(data))
        self._at += 1
        self._block += self._block >= 0
        warns = used + len(data) > self._st.early_at
        self._eof = "eom_ok" if warns or self._eof == "eod_1" else ""
        return len(data)

    def _write_mark(self) -> None:
        if self._st.protected:
            raise _fail(errno.EACCES)
        self._writing = False
        if self._st.fail_marks:
            raise _fail(errno.EIO)
        del self._st.blocks[self._at :]
        self._st.blocks.append(MARK)
        self._at += 1
        self._file += self._file >= 0
        self._block, self._eof = 0, ""

    # --- moving ---

    def _space_files(self, count: int) -> None:
        wanted, left = self._file + count, count
        while left:
            if self._at >= len(self._st.blocks):
                said = left if self._st.says_blank else 0
                self._file = wanted - said if self._file >= 0 else -1
                self._block, self._eof = -1, "eod" if self._st.says_blank else ""
                raise _fail(errno.EIO)
            left -= self._st.blocks[self._at] is MARK
            self._at += 1
        self._file = wanted if self._file >= 0 else -1
        self._block, self._eof = 0, "fm"

    def _space_block(self) -> None:
        if self._at >= len(self._st.blocks):
            self._eof = "eod" if self._st.says_blank else ""
            raise _fail(errno.EIO)
        self._at += 1
        if self._st.blocks[self._at - 1] is MARK:
            self._pass_mark()
            raise _fail(errno.EIO)
        self._block += self._block >= 0
        self._eof = ""

    def _to_end(self) -> None:
        try:
            self._space_files(0x7FFFFF)
        except OSError:
            self._eof = "eod"

    def _seek(self, address: int) -> None:
        if not self._st.locates or address > len(self._st.blocks):
            raise _fail(errno.EIO)
        self._end_writing()
        self._at = address
        self._file = self._block = -1
        self._eof = ""

    def _pass_mark(self) -> None:
        self._file += self._file >= 0
        self._block, self._eof = 0, "fm"

    # --- what the kernel does by the way ---

    def _check(self) -> None:
        if self._st.dead:
            raise _fail(self._st.dead)
        if not self._st.loaded:
            raise _fail(errno.ENOMEDIUM)
        if not self._st.ready:
            raise _fail(errno.EIO)

    def _flush(self) -> None:
        if self._deferred:
            self._deferred = False
            self._block = -1
            raise _fail(errno.EIO)

    def _end_writing(self) -> None:
        if self._writing:
            self._write_mark()
