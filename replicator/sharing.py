"""One limit for a host, shared by the replicators of its volumes.

Duty: who shares, by which weights, and how much each may use now. The replicators find each other
in a small file in the stores' home that all of them map; each has a slot in it. Blocking calls, a
few microseconds each; one thread per object.

What each *uses* stands in its slot, and none takes more than the limit leaves beside what the
others use. So the sum never exceeds the limit, in whatever order they look: one whose share falls
gives up what is too much at its next look, and only then another takes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "throttle.shared"
MAX_SHARERS = 256
_MAGIC = b"CDPSHAR1"
_slot = struct.Struct("<QQdddQ")
"""pid, start of the process, weight, wanted and used rates, spare."""
_SIZE = len(_MAGIC) + MAX_SHARERS * _slot.size


class Claim(NamedTuple):
    """What one replicator wants. Rates in bits per second."""

    weight: float
    wanted_bps: float
    """At most so much: its own limit, or what it has work for; 0: no work at all."""


def shares(limit_bps: float, claims: Sequence[Claim]) -> list[float]:
    """Divide a limit by weight among claims; what one does not want goes to the others. Pure."""
    given = [0.0] * len(claims)
    left = limit_bps
    open_claims = [number for number, claim in enumerate(claims) if claim.wanted_bps > 0]
    while open_claims:
        weight = sum(claims[number].weight for number in open_claims)
        content = [
            number
            for number in open_claims
            if claims[number].wanted_bps <= left * claims[number].weight / weight
        ]
        if not content:
            for number in open_claims:
                given[number] = left * claims[number].weight / weight
            break
        for number in content:
            given[number] = claims[number].wanted_bps
        left = max(0.0, left - sum(given[number] for number in content))
        open_claims = [number for number in open_claims if number not in content]
    return given


class _Slot(NamedTuple):
    pid: int
    started: int
    weight: float
    wanted_bps: float
    used_bps: float
    spare: int = 0


class Sharer:
    """This process's place among those that share the host's limit. `close` gives it up."""

    def __init__(self, home: Path) -> None:
        self._fd = os.open(home / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._locked(wait=True):
                if os.fstat(self._fd).st_size != _SIZE:
                    os.ftruncate(self._fd, 0)
                    os.ftruncate(self._fd, _SIZE)
                self._map = mmap.mmap(self._fd, _SIZE)
                if self._map[: len(_MAGIC)] != _MAGIC:
                    self._map[:] = _MAGIC + bytes(_SIZE - len(_MAGIC))
        except BaseException:
            os.close(self._fd)
            raise
        self._pid = os.getpid()
        self._started = _start_of(self._pid)
        self._number: int | None = None
        self._used_bps = 0.0

    def close(self) -> None:
        """Leave the others what was used here."""
        with self._locked(wait=True):
            if self._number is not None:
                self._write(self._number, None)
        self._map.close()
        os.close(self._fd)

    def look(self, limit_bps: float, claim: Claim) -> float:
        """Tell what is wanted; how much may be used from now on, in bits per second.

        At least once a second or so: what is not used here stays denied to the others until then.
        """
        with self._locked(wait=False) as locked:
            if not locked:
                # Somebody holds it longer than it takes: stay with what is ours.
                return min(self._used_bps, limit_bps)
            others = self._others()
            mine = shares(limit_bps, [claim, *(Claim(s.weight, s.wanted_bps) for s in others)])[0]
            left = limit_bps - sum(slot.used_bps for slot in others)
            self._used_bps = max(0.0, min(mine, left))
            if self._number is not None:
                slot = _Slot(self._pid, self._started, *claim, self._used_bps)
                self._write(self._number, slot)
            return self._used_bps

    def _others(self) -> list[_Slot]:
        """Every other slot of a living process; makes sure that there is one for this one."""
        found = []
        free: int | None = None
        number = self._number
        for at in range(MAX_SHARERS):
            slot = self._read(at)
            if slot.pid and at != number and _start_of(slot.pid) == slot.started:
                found.append(slot)
                continue
            if slot.pid and at != number:
                self._write(at, None)
            if free is None and at != number:
                free = at
        if number is None:
            # With MAX_SHARERS others there is none; what they leave can be used all the same.
            self._number = free
        return found

    def _read(self, number: int) -> _Slot:
        return _Slot(*_slot.unpack_from(self._map, len(_MAGIC) + number * _slot.size))

    def _write(self, number: int, slot: _Slot | None) -> None:
        place = len(_MAGIC) + number * _slot.size
        _slot.pack_into(self._map, place, *(slot or _Slot(0, 0, 0.0, 0.0, 0.0)))

    @contextlib.contextmanager
    def _locked(self, wait: bool) -> Iterator[bool]:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def _start_of(pid: int) -> int:
    """When a process began, in ticks since boot; 0 when there is none: pids are used again."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read(4096)
    except OSError:
        return 0
    # The name in brackets may hold anything; after it come the state and, as the 20th field, the
    # start (proc(5)). A zombie has ended.
    fields = raw[raw.rindex(b")") + 1 :].split()
    return 0 if fields[0] == b"Z" else int(fields[19])


def demand(limit_bps: float, rate_bps: float, waiting: bool) -> float:
    """How much to want of a limit, when so much went lately, and somebody had to wait or not.

    Who does not use its share leaves it to the others, but for room to grow in.
    """
    if waiting:
        return limit_bps
    return min(limit_bps, 2 * rate_bps) if rate_bps else 0.0
