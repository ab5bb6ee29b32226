"""What lets bytes out: a bucket that tasks wait for. Async (trio); the loop's thread.

Duty: waiting, and counting what went. It knows nothing of connections (`metered`) nor of where the
rate comes from (`throttle`).
"""

from __future__ import annotations

import time
from typing import Protocol

import trio

from replicator.bucket import UNLIMITED, Bucket


class Meter(Protocol):
    """Lets bytes out, and counts them. Sizes are those on the wire, every header included."""

    @property
    def piece_bytes(self) -> int:
        """How many bytes should be asked for at once."""

    @property
    def rate_bps(self) -> float:
        """The rate at present, in bits per second; `inf` for none."""

    async def acquire(self, wire_bytes: int) -> None:
        """Wait until so many bytes may go, and count them as gone."""

    def charge(self, wire_bytes: int) -> None:
        """So many more bytes went than was asked for; negative: fewer."""

    def received(self, wire_bytes: int) -> None:
        """So many bytes came in; they are counted only."""

    def carried(self, bps: float) -> None:
        """The line carried so many bits per second lately, by the kernel's measure; 0: unknown."""


class BucketMeter:
    """A meter whose rate can be changed at any time; whoever waits notices at once."""

    def __init__(self, rate_bps: float = UNLIMITED) -> None:
        self._bucket = Bucket(rate_bps, time.monotonic())
        self._changed = trio.Event()
        self._turn = trio.Lock()
        self._need = trio.Event()
        self._waited_s = 0.0
        self._waiting_since: float | None = None
        self.sent_bytes = 0
        """On the wire, since the beginning."""
        self.received_bytes = 0
        self.carried_bps = 0.0
        """What the line carried lately, whatever the limit was; 0: not known."""

    @property
    def piece_bytes(self) -> int:
        """How many bytes should be asked for at once."""
        return self._bucket.piece_bytes

    @property
    def rate_bps(self) -> float:
        """The rate at present, in bits per second; `inf` for none."""
        return self._bucket.rate_bps

    def set_rate(self, rate_bps: float) -> None:
        """From now on this rate: UNLIMITED, or 0 for nothing at all."""
        if rate_bps != self._bucket.rate_bps:
            self._bucket.set_rate(time.monotonic(), rate_bps)
            self._changed.set()
            self._changed = trio.Event()

    async def acquire(self, wire_bytes: int) -> None:
        """Wait until so many bytes may go, and count them as gone. First come, first served."""
        async with self._turn:
            if self._bucket.wait_s(time.monotonic()) > 0:
                await self._wait()
            self.charge(wire_bytes)

    async def _wait(self) -> None:
        self._waiting_since = time.monotonic()
        if self._bucket.rate_bps == 0:
            self._need.set()
        try:
            while (wait_s := self._bucket.wait_s(time.monotonic())) > 0:
                with trio.move_on_after(wait_s):
                    await self._changed.wait()
        finally:
            self._waited_s += time.monotonic() - self._waiting_since
            self._waiting_since = None

    def waited_s(self) -> float:
        """How long somebody has waited here, all in all: it grows while there is work."""
        since = self._waiting_since
        return self._waited_s + (time.monotonic() - since if since is not None else 0.0)

    async def wait_for_need(self) -> None:
        """Until somebody begins to wait though the rate is 0."""
        await self._need.wait()
        self._need = trio.Event()

    def charge(self, wire_bytes: int) -> None:
        """So many more bytes went than was asked for; negative: fewer."""
        self._bucket.take(time.monotonic(), wire_bytes)
        self.sent_bytes += wire_bytes

    def received(self, wire_bytes: int) -> None:
        """So many bytes came in; they are counted only."""
        self.received_bytes += wire_bytes

    def carried(self, bps: float) -> None:
        """The line carried so many bits per second lately, by the kernel's measure; 0: unknown."""
        self.carried_bps = bps
