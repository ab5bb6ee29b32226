"""SCSI commands to a tape drive past its driver: what st does not tell.

Duty: SG_IO on the drive's own node, for questions only, none of which moves the medium. It needs
CAP_SYS_RAWIO (root); without, the answers are None and the drive is used all the same.

The layout of `struct sg_io_hdr` is that of scsi/sg.h. Sense data: SPC-4 §4.5; TapeAlert: SSC-4
§8.2.3; READ BLOCK LIMITS: SSC-4 §7.7.
"""

from __future__ import annotations

import ctypes
import fcntl
from typing import Final, NamedTuple

_SG_IO: Final = 0x2285
_FROM_DEVICE, _NO_DATA = -3, -1
_TIMEOUT_MS: Final = 60_000
_SENSE_BYTES: Final = 64

TEST_UNIT_READY: Final = bytes(6)
READ_BLOCK_LIMITS: Final = bytes([0x05, 0, 0, 0, 0, 0])
TAPE_ALERT: Final = bytes([0x4D, 0, 0x40 | 0x2E, 0, 0, 0, 0, 0x02, 0x00, 0])
"""LOG SENSE, current cumulative values, page 2Eh, at most 512 bytes."""
TAPE_ALERT_BYTES: Final = 512

_CLEANING_FLAGS: Final = (0x14, 0x15)
"""TapeAlert 20: clean now; 21: clean soon."""


class _Header(ctypes.Structure):
    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class Sense(NamedTuple):
    """Why a command failed."""

    key: int
    code: int
    """Additional sense code in the high byte, its qualifier in the low one."""


def send(fd: int, cdb: bytes, answer_bytes: int) -> tuple[bytes, bytes] | None:
    """Send a command: (what it answered, its sense data); None when that can't be done here."""
    command = ctypes.create_string_buffer(cdb, len(cdb))
    answer = ctypes.create_string_buffer(max(answer_bytes, 1))
    sense = ctypes.create_string_buffer(_SENSE_BYTES)
    header = _Header(
        interface_id=ord("S"),
        dxfer_direction=_FROM_DEVICE if answer_bytes else _NO_DATA,
        cmd_len=len(cdb),
        mx_sb_len=_SENSE_BYTES,
        dxfer_len=answer_bytes,
        dxferp=ctypes.addressof(answer) if answer_bytes else None,
        cmdp=ctypes.addressof(command),
        sbp=ctypes.addressof(sense),
        timeout=_TIMEOUT_MS,
    )
    try:
        fcntl.ioctl(fd, _SG_IO, header)
    except OSError:
        return None
    if header.host_status:
        return None
    got = max(0, answer_bytes - max(0, header.resid)) if header.status == 0 else 0
    return answer.raw[:got], sense.raw[: header.sb_len_wr]


def parse_sense(data: bytes) -> Sense:
    """Of fixed or descriptor format; all zero when there is none."""
    if len(data) >= 14 and data[0] & 0x7F in (0x70, 0x71):
        return Sense(data[2] & 0x0F, data[12] << 8 | data[13])
    if len(data) >= 4 and data[0] & 0x7F in (0x72, 0x73):
        return Sense(data[1] & 0x0F, data[2] << 8 | data[3])
    return Sense(0, 0)


def largest_block(answer: bytes) -> int:
    """Of READ BLOCK LIMITS, in bytes; 0 when it doesn't say."""
    return int.from_bytes(answer[1:4], "big") if len(answer) >= 6 else 0


def asks_for_cleaning(page: bytes) -> bool:
    """Is a cleaning flag set in the TapeAlert page?"""
    if len(page) < 4 or page[0] & 0x3F != 0x2E:
        return False
    at, end = 4, min(len(page), 4 + int.from_bytes(page[2:4], "big"))
    while at + 5 <= end:
        flag, length = int.from_bytes(page[at : at + 2], "big"), page[at + 3]
        if flag in _CLEANING_FLAGS and length and page[at + 4] & 1:
            return True
        at += 4 + length
    return False


def what_it_is_at(sense: Sense) -> str:
    """In words, why a drive is not ready; empty when the sense data don't say."""
    words = {
        0x0400: "not ready, for a reason that it does not give",
        0x0401: "getting the cartridge ready (the first load of a new LTO-9 one: up to two hours)",
        0x0402: "waiting for a load command: the cartridge is in it and not threaded",
        0x0403: "waiting for a person: see its display",
        0x0404: "formatting the cartridge",
        0x0407: "busy with a long operation",
        0x0409: "testing itself",
        0x0412: "offline",
        0x3003: "cleaning itself, or done with it: a cleaning cartridge is in it",
        0x3007: "unable to clean itself: the cleaning cartridge is used up",
    }
    return words.get(sense.code, "")
