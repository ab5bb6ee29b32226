"""HTTP requests as a line sees them go by: where each begins and ends, and which bytes of which
shipment are in it. Pure; no I/O. Knows only what cdpfs's sender makes of HTTP/1.1: a body has a
Content-Length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from replicator.shipment import HEADER_BYTES, SHIPMENT_HEADER

MAX_HEAD_BYTES = 64 << 10

_SHIPMENT = re.compile(rb"PUT [^ ]*/v1/volumes/[0-9a-f]{32}/shipments/([0-9a-f]{32})[? ]")
_RANGE = re.compile(rb"content-range: *bytes (\d+)-(\d+)/(\d+)", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Head:
    """What a request's head says."""

    raw: bytes
    body_bytes: int
    shipment: str = ""
    """"" when it carries none of a shipment."""
    start: int = 0
    """Where in the shipment its body begins."""
    total_bytes: int = 0

    @staticmethod
    def parse(raw: bytes) -> Head:
        """The head, up to and with the empty line."""
        length, place, where = _LENGTH.search(raw), _SHIPMENT.match(raw), _RANGE.search(raw)
        body_bytes = int(length[1]) if length else 0
        if place is None or where is None:
            return Head(raw, body_bytes)
        return Head(raw, body_bytes, place[1].decode(), int(where[1]), int(where[3]))


@dataclass(frozen=True)
class Part:
    """Bytes `[start, stop)` of a request's body."""

    head: Head
    start: int
    stop: int
    beginning: bytes
    """The first bytes of the body, as far as they are known by now."""


@dataclass
class Requests:
    """The requests of one connection, fed with what goes up it. `done` is told each whole one."""

    done: Callable[[Head, bytes], None]
    position: int = 0
    """Bytes of the connection so far."""
    head: Head | None = None
    """Of the request whose body is going by."""
    body_start: int = 0
    """Where, in the connection, that body begins."""
    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Part]:
        """More bytes; the parts of bodies that are in them."""
        self._rest += data
        self.position += len(data)
        parts = []
        while self._rest:
            if self.head is None and not self._take_head():
                break
            assert self.head is not None
            before = max(self.position - len(data) - self.body_start, 0)
            here = min(len(self._rest), self.head.body_bytes)
            beginning = bytes(self._rest[:HEADER_BYTES])
            parts.append(Part(self.head, min(before, here), here, beginning))
            if here < self.head.body_bytes:
                break
            self.done(self.head, bytes(self._rest[:here]))
            del self._rest[:here]
            self.head = None
        return parts

    def _take_head(self) -> bool:
        end = self._rest.find(b"\r\n\r\n") + 4
        if end < 4:
            assert len(self._rest) < MAX_HEAD_BYTES, "this is no HTTP"
            return False
        self.head = Head.parse(bytes(self._rest[:end]))
        del self._rest[:end]
        self.body_start = self.position - len(self._rest)
        return True


@dataclass
class _Sent:
    """What went up of one shipment."""

    total_bytes: int
    lsns: tuple[int, int] = (0, 0)
    """First and last, once its header was seen."""
    reached: int = 0
    """All bytes before this one went up."""


@dataclass
class Traffic:
    """All that went up a line: how many bytes, and how many of them for nothing."""

    bytes_up: int = 0
    body_bytes: int = 0
    _sent: dict[str, _Sent] = field(default_factory=dict)

    def note(self, count: int, parts: Iterable[Part]) -> None:
        """So many bytes, with these parts of bodies in them."""
        self.bytes_up += count
        for part in parts:
            head = part.head
            if not head.shipment:
                continue
            self.body_bytes += part.stop - part.start
            sent = self._sent.setdefault(head.shipment, _Sent(head.total_bytes))
            if head.start + part.start <= sent.reached:
                sent.reached = max(sent.reached, head.start + part.stop)
            if not head.start and len(part.beginning) == HEADER_BYTES:
                fields = SHIPMENT_HEADER.unpack(part.beginning)
                first, last = fields["first_lsn"], fields["last_lsn"]
                assert isinstance(first, int) and isinstance(last, int)
                sent.lsns = first, last

    def largest_bytes(self) -> int:
        """The size of the largest shipment."""
        return max((sent.total_bytes for sent in self._sent.values()), default=0)

    def wasted_bytes(self) -> int:
        """Bytes of bodies beyond those that it takes to send every op once.

        A shipment is useful when all of it went up and no useful one has an op of it.
        """
        useful, reached = 0, 0
        for sent in sorted(self._sent.values(), key=lambda sent: (*sent.lsns, sent.total_bytes)):
            if sent.reached == sent.total_bytes and sent.lsns[0] > reached:
                useful += sent.total_bytes
                reached = sent.lsns[1]
        return self.body_bytes - useful
