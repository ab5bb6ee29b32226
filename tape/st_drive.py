"""A real tape drive: what the Linux driver st makes of it.

Duty: the laws of `tape.drive` over the ioctls of `tape.st_ioctl`. Habits of st
(drivers/scsi/st.c) that reading and writing allow for:

- At the early warning the block is written and its write succeeds; the next one fails with ENOSPC
  and is not written; behind it every other write fails so, whether there is room or not.
- An asynchronous write fails at the next operation, at the latest at the filemark, which waits: but
  not with MT_ST_NOWAIT_EOF, so that option is switched off.
- What a cartridge is like is asked when the node is opened, not later; so waiting for a cartridge
  means opening again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Callable
from typing import Final

from tape import scsi
from tape.drive import DriveStatus, Position
from tape.errors import (
    BadCartridge,
    BadSettings,
    DriveDead,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    MediaError,
    NotReady,
    TapeError,
)
from tape.layout import MAX_BLOCK_BYTES
from tape.st_failure import IN_USE, failure, open_failure
from tape.st_head import Head
from tape.st_ioctl import (
    GMT_CLN,
    GMT_DR_OPEN,
    GMT_EOD,
    GMT_EOT,
    GMT_ONLINE,
    GMT_WR_PROT,
    MT_ST_CLEARBOOLEANS,
    MT_ST_NOWAIT,
    MT_ST_NOWAIT_EOF,
    MTREW,
    MTSETBLK,
    MTSETDRVBUFFER,
    MTWEOF,
    Node,
    TapeNode,
)

_HASTY: Final = MT_ST_NOWAIT | MT_ST_NOWAIT_EOF
"""With these the driver answers before the drive is done."""

OpenNode = Callable[[str, bool], Node]
"""A path, and whether to write."""


class StDrive:
    """See `tape.drive.Drive`. `path` is a node that doesn't rewind: /dev/nst0, say."""

    def __init__(
        self,
        path: str,
        number: int,
        *,
        fixed_block_bytes: int = 0,
        open_node: OpenNode = TapeNode.open,
    ) -> None:
        """With `fixed_block_bytes` every block has that size; by default, any size."""
        self._path = path
        self._number = number
        self._fixed_bytes = fixed_block_bytes
        self._open_node = open_node
        self._held: tuple[Node, Head] | None = None
        self._warned = False
        self._alert = False
        """By the drive's TapeAlert, which forgets what it has told."""
        self._limit_bytes = fixed_block_bytes or MAX_BLOCK_BYTES
        self._buffer = memoryview(b"")

    @property
    def number(self) -> int:
        """See `Drive.number`."""
        return self._number

    @property
    def name(self) -> str:
        """See `Drive.name`."""
        return self._path

    @property
    def max_block_bytes(self) -> int:
        """At most that of the format; the drive's own limit is known once it was opened."""
        return self._limit_bytes

    # --- holding the drive ---

    def open(self) -> None:
        """See `Drive.open`."""
        self.close()
        node = self._enter(write=True)
        try:
            self._prepare(node)
        except BaseException:
            _let_go(node)
            raise
        self._held = node, Head(node, self._path, self._buffer)
        self._warned = False

    def close(self) -> None:
        """See `Drive.close`."""
        held, self._held = self._held, None
        if held is not None:
            _let_go(held[0])

    def status(self) -> DriveStatus:
        """See `Drive.status`."""
        if self._held is not None:
            return self._describe(self._held[0])
        try:
            node = self._enter(write=False)
        except NotReady:
            return DriveStatus(False, False, self._alert, IN_USE)
        try:
            return self._describe(node)
        finally:
            _let_go(node)

    def _enter(self, write: bool) -> Node:
        try:
            return self._open_node(self._path, write)
        except OSError as error:
            raise open_failure(self._path, error) from error

    def _describe(self, node: Node) -> DriveStatus:
        try:
            status = node.status()
        except OSError as error:
            raise failure(self._path, "asking how it is", error) from error
        loaded, busy = status.has(GMT_ONLINE), ""
        if not loaded and not status.has(GMT_DR_OPEN):
            answered = node.command(scsi.TEST_UNIT_READY, 0)
            sense = scsi.parse_sense(answered[1] if answered else b"")
            busy = scsi.what_it_is_at(sense) or "getting the cartridge ready"
            # What it asked for was about another cartridge, or is being done now.
            self._alert = False
        cleaning = status.has(GMT_CLN) or self._alert
        return DriveStatus(loaded, status.has(GMT_WR_PROT), cleaning, busy)

    # --- what must be so before a cartridge is used ---

    def _prepare(self, node: Node) -> None:
        status = self._describe(node)
        if not status.loaded:
            raise NotReady(f"drive {self._path} is {status.busy or 'empty'}")
        try:
            # First of all: after a reset of the bus the driver lets nothing else through.
            node.op(MTREW)
            answered = node.command(scsi.TAPE_ALERT, scsi.TAPE_ALERT_BYTES)
            self._alert = scsi.asks_for_cleaning(answered[0] if answered else b"")
            self._make_patient(node)
            self._set_block_size(node)
        except OSError as error:
            raise failure(self._path, "rewinding", error, node) from error
        self._make_buffer(node)

    def _make_patient(self, node: Node) -> None:
        hasty = node.options() & _HASTY
        if not hasty:
            return
        try:
            node.op(MTSETDRVBUFFER, MT_ST_CLEARBOOLEANS | hasty)
        except OSError as error:
            raise BadSettings(
                f"{self._path} answers before a filemark is on the medium (driver options "
                f"{hasty:#x}), so that nothing could be counted as written",
                hint=f"as root: mt -f {self._path} stclearoptions {hasty:#x}",
            ) from error

    def _set_block_size(self, node: Node) -> None:
        if node.status().block_bytes == self._fixed_bytes:
            return
        try:
            node.op(MTSETBLK, self._fixed_bytes)
        except OSError as error:
            size = f"of {self._fixed_bytes} bytes" if self._fixed_bytes else "of any size"
            raise BadSettings(
                f"{self._path} does not take blocks {size}: {error.strerror}",
                hint="`mt -f NODE setblk N` finds out which sizes it takes",
            ) from error

    def _make_buffer(self, node: Node) -> None:
        size = self._fixed_bytes
        if not size:
            answered = node.command(scsi.READ_BLOCK_LIMITS, 6)
            drive_bytes = scsi.largest_block(answered[0] if answered else b"")
            size = self._limit_bytes = min(MAX_BLOCK_BYTES, drive_bytes or MAX_BLOCK_BYTES)
            # If the drive takes it, more than any block of ours: then a full one is never ours.
            if drive_bytes >= size + mmap.PAGESIZE:
                size += mmap.PAGESIZE
        if len(self._buffer) != size:
            # Memory of whole pages, which the driver can transfer to directly.
            self._buffer = memoryview(mmap.mmap(-1, size))

    def _in_hand(self) -> tuple[Node, Head]:
        if self._held is None:
            raise NotReady(f"drive {self._path} is not open")
        return self._held

    # --- moving ---

    def position(self) -> Position:
        """See `Drive.position`."""
        _node, head = self._in_hand()
        return Position(head.file, head.block)

    def rewind(self) -> None:
        """See `Drive.rewind`."""
        self._in_hand()[1].rewind()

    def space_files(self, count: int) -> None:
        """See `Drive.space_files`."""
        self._in_hand()[1].space_files(count)

    def to_file(self, number: int) -> None:
        """See `Drive.to_file`."""
        self._in_hand()[1].to_file(number)

    def to_end(self) -> None:
        """See `Drive.to_end`."""
        self._in_hand()[1].to_end()

    # --- reading and writing ---

    def read_block(self) -> bytes:
        """See `Drive.read_block`."""
        node, head = self._in_hand()
        head.unmarked = False
        try:
            size = node.read(self._buffer)
        except OSError as error:
            raise self._read_failure(head, error) from error
        maybe_nothing = size == len(self._buffer) and not self._fixed_bytes
        if size == 0 or maybe_nothing:
            status = head.status()
            if size == 0 and status.has(GMT_EOD):
                head.block = -1
                raise self._end_of_data()
            if status.has(GMT_EOD, GMT_EOT):
                head.settle_at_end()
                raise self._end_of_data()
            if size == 0:
                head.at_file(head.file + 1)
                return b""
        head.passed_block()
        return bytes(self._buffer[:size])

    def _read_failure(self, head: Head, error: OSError) -> TapeError:
        if error.errno == errno.EIO and head.is_end_of_data():
            return self._end_of_data()
        lost = head.lose("reading", error)
        if error.errno != errno.ENOMEM:
            return lost
        return BadCartridge(
            f"{self._path}: a block of more than {len(self._buffer)} bytes, which is not ours",
            hint="the cartridge holds something else; nothing on it was changed",
        )

    def _end_of_data(self) -> EndOfData:
        return EndOfData(f"{self._path}: nothing was written behind here")

    def write_block(self, data: bytes | memoryview) -> None:
        """See `Drive.write_block`."""
        node, head = self._in_hand()
        head.check_place()
        if self._fixed_bytes and len(data) != self._fixed_bytes:
            raise BadSettings(
                f"{self._path} is set to blocks of {self._fixed_bytes} bytes, not {len(data)}",
                hint="take the same block size for the library, or 0 for the drive",
            )
        head.cut_off()
        try:
            written = self._write(node, data)
        except OSError as error:
            raise head.lose("writing", error) from error
        head.unmarked = True
        head.passed_block()
        if written != len(data):
            raise MediaError(f"{self._path}: wrote {written} bytes of a block of {len(data)}")

    def _write(self, node: Node, data: bytes | memoryview) -> int:
        try:
            return node.write(data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        if not self._warned:
            self._warned = True
            raise EarlyWarning(f"{self._path}: the end of the medium is near")
        try:
            return node.write(data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise EndOfMedium(f"{self._path}: the medium is full") from error

    def write_filemark(self) -> None:
        """See `Drive.write_filemark`."""
        node, head = self._in_hand()
        head.check_place()
        head.cut_off()
        head.unmarked = False
        try:
            self._write_mark(node)
        except OSError as error:
            lost = head.lose("writing a filemark", error)
            if error.errno == errno.ENOSPC or (
                error.errno == errno.EIO and head.status().has(GMT_EOT)
            ):
                raise EndOfMedium(f"{self._path}: no room for a filemark") from error
            raise lost from error
        head.at_file(head.file + 1)
        status = head.status()
        if head.differs(status):
            raise DriveDead(f"{self._path} lost its place: {status}, and not file {head.file}")

    def _write_mark(self, node: Node) -> None:
        try:
            node.op(MTWEOF)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # An asynchronous write met the early warning: it is written, and no filemark is yet.
            node.op(MTWEOF)


def _let_go(node: Node) -> None:
    """Whatever was to be counted has had its filemark, so a failure tells nothing new."""
    with contextlib.suppress(OSError):
        node.close()
