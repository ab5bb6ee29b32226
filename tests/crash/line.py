"""A line between a site and its vault that does all that lines do to what they carry.

A real TCP proxy, one thread for each connection. While it is `bad`, each connection gets a fault,
and another when it has survived that one:

    reset      RST in the midst of a shipment's body (in three of ten connections)
    cut        both ends see the connection end, at any byte of either way
    unheard    the vault gets all of a request, its answer is lost
    flip       one bit of any byte of either way
    stall      nothing goes by for a while
    twice      a request arrives, and again by a connection of its own
    late       a request is held back while the site is cut off; it arrives when the site has
               asked again, or gone on
    silence    a connection on which nothing goes by for long is forgotten (in three seconds)

and `replay` sends an old request once more. Behind TLS a line can't tell one request from another:
there it can do the first five, at bytes that it chooses blindly.

What goes up is counted, and of each shipment which bytes.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.crash.requests import Head, Part, Requests, Traffic

CHUNK_BYTES = 4 << 10
TICK_S = 0.05
BUFFER_BYTES = 16 << 10
"""Of each socket, so that little is under way when a connection breaks."""

MOST_KEPT = 40
"""Requests that can be sent again."""

LATEST_S = 1.5
LONGEST_STALL_S = 1.0
LONGEST_SILENCE_S = 3.0
MOST_HANDSHAKE_BYTES = 3000
"""Of a TLS connection's beginning, in either way; more than it has."""

UP, DOWN = "up", "down"
RESET_SHARE = 0.3
EARLY_SHARE = 0.2


@dataclass
class Fault:
    """What happens to a connection, at byte `at` of one way; `at` < 0: when `when_ready` says."""

    kind: str
    way: str = UP
    at: int = -1


class Broken(Exception):
    """The connection ends here."""


class Line:
    """From a port of this machine to `target`. Any thread may call anything."""

    def __init__(
        self, target: tuple[str, int], rng: random.Random, rate_bytes_s: float, tls: bool
    ) -> None:
        self._target = target
        self._random = rng
        self._rate = rate_bytes_s
        self.tls = tls
        self.bad = False
        self.dark = False
        """Nobody gets through."""
        self.turned_away = 0
        """So many tried it then."""
        self.faults: Counter[str] = Counter()
        """Those that happened."""
        self.answers: Counter[str] = Counter()
        """Status of each answer to a request that the line sent by itself."""
        self.traffic = Traffic()
        self._kept: list[tuple[Head, bytes]] = []
        self._guard = threading.Lock()
        self._ended = False
        self._connections: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._listener.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def close(self) -> None:
        """End everything and wait for it."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in list(self._threads):
            thread.join()

    def hang_up(self) -> int:
        """Cut all connections that there are now; how many there were."""
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            connection.ended = True
        return len(connections)

    def replay(self) -> bool:
        """Send some old request once more, now; is there one?"""
        with self._guard:
            if not self._kept:
                return False
            head, body = self._random.choice(self._kept)
            self.faults["replay"] += 1
        self._deliver(head.raw + body)
        return True

    # --- its threads -----------------------------------------------------------------------------

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended:
            try:
                site, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, site)

    def _serve(self, site: socket.socket) -> None:
        if self.dark:
            self.turned_away += 1
            _reset(site)
            return
        try:
            vault = _connected(self._target)
        except OSError:
            _reset(site)  # as from a machine on which nothing listens
            return
        connection = _Connection(self, site, vault)
        with self._guard:
            self._connections.add(connection)
        try:
            connection.run()
        finally:
            with self._guard:
                self._connections.discard(connection)

    # --- for connections -------------------------------------------------------------------------

    @property
    def tick_s(self) -> float:
        """What one chunk takes at the line's rate."""
        return CHUNK_BYTES / self._rate

    def draw(self, so_far: dict[str, int]) -> Fault | None:
        """The next fault of a connection; None while the line is good."""
        if not self.bad:
            return None
        with self._guard:
            return self._drawn(self._random, so_far)

    def _drawn(self, rng: random.Random, so_far: dict[str, int]) -> Fault:
        # Mostly late enough for something to have come of the connection.
        early = rng.random() < EARLY_SHARE
        start = MOST_HANDSHAKE_BYTES if self.tls and not early else 0
        far_up = so_far[UP] + start + int(2 ** rng.uniform(0 if early else 10, 18))
        far_down = so_far[DOWN] + start + int(2 ** rng.uniform(0 if early else 8, 12))
        if rng.random() < RESET_SHARE:
            return Fault("reset", at=far_up if self.tls else -1)
        kinds = ["cut", "flip", "stall", "unheard"]
        kind = rng.choice(kinds if self.tls else [*kinds, "twice", "late"])
        if kind in ("twice", "late"):
            return Fault(kind)
        if kind == "unheard":
            return Fault(kind, DOWN, far_down if self.tls else -1)
        return Fault(kind, *rng.choice(((UP, far_up), (DOWN, far_down))))

    def happened(self, kind: str) -> None:
        """Count a fault."""
        with self._guard:
            self.faults[kind] += 1

    def random(self) -> random.Random:
        """A generator of its own for a connection."""
        with self._guard:
            return random.Random(self._random.randrange(1 << 40))

    def note(self, count: int, parts: list[Part]) -> None:
        """Bytes went up."""
        with self._guard:
            self.traffic.note(count, parts)

    def keep(self, head: Head, body: bytes) -> None:
        """A whole request went by; one of a shipment can be sent again, some quite late."""
        if not head.shipment:
            return
        with self._guard:
            if len(self._kept) >= MOST_KEPT:
                self._kept.pop(self._random.randrange(MOST_KEPT))
            self._kept.append((head, body))

    def deliver_later(self, request: bytes, delay_s: float) -> None:
        """Send a request by a connection of its own."""
        self._start(self._deliver, request, delay_s)

    def _deliver(self, request: bytes, delay_s: float = 0.0) -> None:
        time.sleep(delay_s)
        answer = b""
        with contextlib.suppress(OSError), _connected(self._target) as vault:
            vault.settimeout(20)
            # It may be refused before it has arrived; the answer is to be read all the same.
            with contextlib.suppress(OSError):
                vault.sendall(request)
            answer = vault.recv(CHUNK_BYTES)
        with self._guard:
            self.answers[answer[9:12].decode("ascii", "replace") or "none"] += 1


class _Connection:
    """One connection of a line, in its own thread."""

    def __init__(self, line: Line, site: socket.socket, vault: socket.socket) -> None:
        self._line = line
        self._site, self._vault = site, vault
        self._random = line.random()
        self._passed = {UP: 0, DOWN: 0}
        self._fault: Fault | None = None
        self._requests = Requests(self._whole)
        self._heard_at = time.monotonic()
        self.ended = False

    def run(self) -> None:
        """Carry bytes until an end closes, a fault breaks it, or it is `ended`."""
        ends = {self._site: UP, self._vault: DOWN}
        try:
            while not self.ended:
                ready, _, _ = select.select(list(ends), [], [], TICK_S)
                if self._fault is None:
                    self._fault = self._line.draw(self._passed)
                if ready:
                    self._heard_at = time.monotonic()
                elif self._line.bad and time.monotonic() - self._heard_at > LONGEST_SILENCE_S:
                    self._break("silence")
                for end in ready:
                    data = end.recv(CHUNK_BYTES)
                    if not data:
                        return
                    self._carry(ends[end], data)
        except (OSError, Broken):
            return
        finally:
            if self._fault is not None and self._fault.kind == "reset" and self.ended:
                _reset(self._site)
                _reset(self._vault)
            self._site.close()
            self._vault.close()

    def _carry(self, way: str, data: bytes) -> None:
        time.sleep(self._line.tick_s * len(data) / CHUNK_BYTES)
        if way == UP and not self._line.tls:
            parts = self._requests.feed(data)
            self._line.note(len(data), parts)
            self._aim(parts)
        elif way == UP:
            self._line.note(len(data), [])
        for piece in self._with_fault(way, data):
            self._send(way, piece)

    def _aim(self, parts: list[Part]) -> None:
        """A reset comes in the midst of the body that is going by."""
        fault, head = self._fault, self._requests.head
        if fault is None or fault.kind != "reset" or fault.at >= 0:
            return
        if head is not None and head.shipment:
            fault.at = self._requests.body_start + self._random.randrange(head.body_bytes)
        elif parts and parts[-1].head.shipment:
            # All of it, or the rest, came at once.
            length = parts[-1].stop - parts[-1].start
            fault.at = self._requests.position - 1 - self._random.randrange(max(length, 1))

    def _with_fault(self, way: str, data: bytes) -> Iterator[bytes]:
        """What is sent on instead of `data`."""
        fault = self._fault
        before = self._passed[way]
        self._passed[way] += len(data)
        if fault is None or fault.way != way:
            yield data
            return
        if fault.kind == "late":
            return  # `_whole` has the request when it is complete
        if fault.kind == "unheard" and fault.at < 0:
            self._break("unheard")
        if not 0 <= fault.at - before < len(data):
            if 0 <= fault.at < before:
                fault.at = self._passed[way]  # it was aimed at what is gone by: next time
            yield data
            return
        where = fault.at - before
        yield data[:where]
        yield self._strike(fault.kind, data[where:])

    def _strike(self, kind: str, rest: bytes) -> bytes:
        """The fault; what is to be sent on of the rest. Broken when it is the end."""
        if kind in ("reset", "cut", "unheard"):
            self._break(kind)
        self._fault = None
        self._line.happened(kind)
        if kind == "flip":
            return bytes([rest[0] ^ 1 << self._random.randrange(8)]) + rest[1:]
        assert kind == "stall", kind
        time.sleep(self._random.uniform(0, LONGEST_STALL_S))
        return rest

    def _break(self, kind: str) -> None:
        self._line.happened(kind)
        self.ended = True
        raise Broken

    def _whole(self, head: Head, body: bytes) -> None:
        """A request has gone by to its end."""
        self._line.keep(head, body)
        kind = self._fault.kind if self._fault is not None else ""
        if kind == "twice" and head.shipment:
            self._fault = None
            self._line.happened(kind)
            self._line.deliver_later(head.raw + body, self._random.choice((0, 0, 0.05, 0.5)))
        if kind == "late" and head.shipment:
            self._line.deliver_later(head.raw + body, self._random.uniform(0, LATEST_S))
            self._break(kind)
        if kind == "late" and not head.shipment:
            # Held back so far, though it is another kind of request.
            self._send(UP, head.raw + body)

    def _send(self, way: str, data: bytes) -> None:
        """Send all of it, as slowly as the other end takes it."""
        to = self._vault if way == UP else self._site
        view = memoryview(data)
        while view and not self.ended:
            _, ready, _ = select.select([], [to], [], TICK_S)
            if ready:
                view = view[to.send(view) :]


def _connected(target: tuple[str, int]) -> socket.socket:
    """A connection with little room in it."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    try:
        made.connect(target)
    except OSError:
        made.close()
        raise
    return made


def _reset(end: socket.socket) -> None:
    """Close with RST instead of FIN."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
