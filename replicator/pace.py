"""When to try again: growing pauses with full jitter, cut short when the network changes.

Async (trio). It knows nothing of what is tried.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable

import trio

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
CHANGE_PAUSE_S = 1.0
"""Changes of the network are told at most this often."""

_RTMGRP = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""linux/rtnetlink.h: links, IPv4 addresses and routes, IPv6 addresses and routes."""


class Backoff:
    """Pauses after failures: each twice as long as the last at most, drawn evenly from 0 on.

    So that many sites which lost the same vault do not come back at the same moment.
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._failures = 0
        self._farthest = (0, 0)

    def next_s(self) -> float:
        """The pause after one more failure, in seconds."""
        longest = min(FIRST_PAUSE_S * float(1 << min(self._failures, 16)), LONGEST_PAUSE_S)
        self._failures += 1
        return self._draw() * longest

    def reset(self) -> None:
        """Something worked."""
        self._failures = 0

    def reached(self, next_lsn: int, received_bytes: int) -> None:
        """The vault stands there: farther than ever is a success, be it a part of a shipment.

        A line that breaks often carries a large shipment in many connections.
        """
        if (next_lsn, received_bytes) > self._farthest:
            self._failures = 0
        self._farthest = next_lsn, received_bytes


class Bell:
    """Wakes whoever waits. A ring that nobody heard is heard by the next who waits."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake them."""
        self._event.set()

    async def wait(self, longest_s: float = float("inf")) -> bool:
        """Until it rings, or that long; did it ring?"""
        with trio.move_on_after(longest_s):
            await self._event.wait()
        rang = self._event.is_set()
        self._event = trio.Event()
        return rang


async def watch_network(changed: Callable[[], None]) -> None:
    """Call `changed` when links, addresses or routes change (rtnetlink(7)); until cancelled."""
    try:
        raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return  # no such thing here: the pauses alone decide
    with trio.socket.from_stdlib_socket(raw) as messages:
        try:
            await messages.bind((0, _RTMGRP))
        except OSError:
            return
        while True:
            # An error means too many messages at once (ENOBUFS): something changed all the same.
            with contextlib.suppress(OSError):
                await messages.recv(1 << 16)
            changed()
            await trio.sleep(CHANGE_PAUSE_S)
