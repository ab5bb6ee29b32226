"""What the kernel says of a TCP connection: bytes and segments that really went out.

Duty: `struct tcp_info` of linux/tcp.h (getsockopt TCP_INFO), and what that makes on the wire.
Newer kernels append fields and never move one; what an older kernel does not give is not there.
Any thread.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

import trio

LENGTH_BYTES = 232
"""Up to and with `tcpi_bytes_retrans` and what fills its word up."""

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_OPTIONS, _SND_MSS = 5, 16
_BYTES_RECEIVED, _SEGS_OUT, _SEGS_IN, _NOTSENT = 128, 136, 140, 144
_DELIVERY_RATE, _BYTES_SENT, _BYTES_RETRANS = 160, 200, 208
_NEEDED_BYTES = _BYTES_RETRANS + 8
"""`tcpi_bytes_sent` and `tcpi_bytes_retrans` are there since Linux 4.19."""

_TIMESTAMPS = 1
"""TCPI_OPT_TIMESTAMPS of `tcpi_options`: each segment carries twelve bytes more."""

ETHERNET_BYTES = 14
"""As network interfaces count: with the addresses and the type, without preamble and checksum."""
_IP_BYTES = {socket.AF_INET: 20, socket.AF_INET6: 40}
_TCP_BYTES = 20
_TIMESTAMP_BYTES = 12


class TcpInfo(NamedTuple):
    """Counts since the connection began. Bytes are of payload; retransmissions are in `sent`."""

    mss: int
    """Payload of a full segment, its options left away."""
    header_bytes: int
    """Of each segment: Ethernet, IP and TCP with its usual options."""
    sent_bytes: int
    retransmitted_bytes: int
    segments_out: int
    """With acknowledgements, and with what is needed to open and to close."""
    unsent_bytes: int
    """Handed over and not yet sent for the first time."""
    received_bytes: int
    segments_in: int
    delivery_bytes_s: int
    """What the line carried lately; 0: not known yet."""

    @property
    def wire_out_bytes(self) -> int:
        """What went out on the wire."""
        return self.sent_bytes + self.segments_out * self.header_bytes

    @property
    def wire_in_bytes(self) -> int:
        """What came in on the wire."""
        return self.received_bytes + self.segments_in * self.header_bytes

    def cost(self, payload_bytes: int) -> int:
        """What so much payload makes on the wire, sent in full segments."""
        return wire_bytes(payload_bytes, self.mss, self.header_bytes)


def wire_bytes(payload_bytes: int, mss: int, header_bytes: int) -> int:
    """What so much payload makes on the wire, sent in full segments."""
    return payload_bytes + -(-payload_bytes // mss) * header_bytes


def read_tcp_info(connection: trio.socket.SocketType) -> TcpInfo | None:
    """How a connection is; None when this kernel does not say enough."""
    try:
        raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LENGTH_BYTES)
    except OSError:
        return None
    if len(raw) < _NEEDED_BYTES:
        return None
    header = header_bytes(connection.family, bool(raw[_OPTIONS] & _TIMESTAMPS))
    return TcpInfo(
        mss=max(1, _U32.unpack_from(raw, _SND_MSS)[0]),
        header_bytes=header,
        sent_bytes=_U64.unpack_from(raw, _BYTES_SENT)[0],
        retransmitted_bytes=_U64.unpack_from(raw, _BYTES_RETRANS)[0],
        segments_out=_U32.unpack_from(raw, _SEGS_OUT)[0],
        unsent_bytes=_U32.unpack_from(raw, _NOTSENT)[0],
        received_bytes=_U64.unpack_from(raw, _BYTES_RECEIVED)[0],
        segments_in=_U32.unpack_from(raw, _SEGS_IN)[0],
        delivery_bytes_s=_U64.unpack_from(raw, _DELIVERY_RATE)[0],
    )


def header_bytes(family: int, timestamps: bool = True) -> int:
    """Of each segment of a connection: Ethernet, IP and TCP with its usual options."""
    ip = _IP_BYTES.get(socket.AddressFamily(family), 0)
    return ETHERNET_BYTES + ip + _TCP_BYTES + (_TIMESTAMP_BYTES if timestamps else 0)
