"""Mounting, and the words that the kernel and libfuse exchange first (FUSE_INIT).

Duty: mount through fusermount3, and correct libfuse's answer to FUSE_INIT before the kernel sees
it. pyfuse3 has no say in these flags, and three of them decide about correctness and speed:

- FUSE_HANDLE_KILLPRIV_V2: without it the kernel asks for `security.capability` before each and
  every write, which doubles the cost of a small write. With it, cdpfs drops set-id bits itself.
- FUSE_DONT_MASK: without it the umask is applied even where a default ACL must take its place.
- FUSE_AUTO_INVAL_DATA (taken out): with it each change of mtime throws the file's pages out of
  the cache, although nobody but the kernel's own clients changes files here.

How: libfuse gets one end of a socket pair as its device. The kernel's FUSE_INIT is handed through
it, then a FUSE_FORGET for a node that does not exist. When that FORGET is handled, libfuse's
answer lies in the socket: it is corrected, sent on, and the real device takes the socket's place
under the same descriptor (dup2). Nothing else ever passes the socket.

Runs once, on the loop's thread, before other requests. Source: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import subprocess

from fsd.errors import MountRefused, NoFuse
from fsd.readiness import Readiness

HANDSHAKE_NODE = 0x7FFF_FFFF_FFFF_FF00
"""The node of the FORGET that ends the handshake; no real node ever has this number."""

_INIT_HEADER = struct.Struct("<IIQQIIII")
_INIT_IN = struct.Struct("<IIII")
_FORGET = struct.Struct("<IIQQIIIIQ")
_REPLY_FLAGS_AT = 16 + 12
_OP_FORGET = 2
_FLAG_DONT_MASK = 1 << 6
_FLAG_AUTO_INVAL_DATA = 1 << 12
_FLAG_HANDLE_KILLPRIV_V2 = 1 << 28
_WANTED = _FLAG_DONT_MASK | _FLAG_HANDLE_KILLPRIV_V2


class Handshake:
    """The state between mounting and the first request. `device` is what libfuse gets."""

    def __init__(self, mount_point: str, options: set[str], readiness: Readiness) -> None:
        self.readiness = readiness
        self._real = _mount(mount_point, options)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._device_fd = theirs.detach()
        init = os.read(self._real, 1 << 17)
        self._offered = _INIT_IN.unpack_from(init, _INIT_HEADER.size)[3]
        ours.send(init)
        ours.send(_FORGET.pack(_FORGET.size, _OP_FORGET, 0, HANDSHAKE_NODE, 0, 0, 0, 0, 0))
        ours.setblocking(False)

    @property
    def device(self) -> str:
        """The mount point that pyfuse3 is told: libfuse takes it as an open device."""
        return f"/dev/fd/{self._device_fd}"

    def finish(self) -> None:
        """Answer the kernel and put the real device in the socket's place."""
        reply = bytearray(self._socket.recv(1 << 12))
        (flags,) = struct.unpack_from("<I", reply, _REPLY_FLAGS_AT)
        flags = (flags | (_WANTED & self._offered)) & ~_FLAG_AUTO_INVAL_DATA
        struct.pack_into("<I", reply, _REPLY_FLAGS_AT, flags)
        os.write(self._real, reply)
        os.dup2(self._real, self._device_fd, inheritable=False)
        os.close(self._real)
        self._socket.close()
        self.readiness.watch(self._device_fd)


def _mount(mount_point: str, options: set[str]) -> int:
    """Mount through fusermount3; returns the kernel's device. MountRefused with its words."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        environment = dict(os.environ, _FUSE_COMMFD=str(theirs.fileno()))
        command = ["fusermount3", "-o", ",".join(sorted(options)), "--", mount_point]
        try:
            done = subprocess.run(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise NoFuse("fusermount3 is not installed") from None
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise MountRefused(f"can't mount at {mount_point}: {words}")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    received = array.array("i")
    received.frombytes(ancillary[0][2][:4])
    return received[0]
