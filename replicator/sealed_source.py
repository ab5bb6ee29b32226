"""A sealed volume's journal, opened with its key: out of a vault's folder, or over HTTP.

Duty: sources for `replicator.recover` and for mirrors. Blocking; one thread. A line that breaks is
tried again, and goes on at the next byte; what is at hand already is not fetched again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import httpx
import msgspec

from replicator.errors import BadShipment, LinkDown, Refused, UnknownVolume, VaultBusy
from replicator.link import blocking_client, mapped_error, refusal_error
from replicator.pace import Backoff
from replicator.recover import Held
from replicator.sealed_wire import SealedVolume
from replicator.sealing import HEADER_BYTES, read_header
from replicator.settings import LinkSettings
from replicator.unsealing import Unsealer
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.vault.sealed_files import held_shipments
from replicator.vault.sealed_reading import describe
from replicator.wire import MAX_MESSAGE_BYTES
from store.keys import KeyRing
from store.types import Lsn

MAX_FAILURES = 100
"""Of the line in a row without a byte that arrived: half an hour or more."""

MAX_ANSWER_BYTES = 16 * MAX_MESSAGE_BYTES


class SealedVault(Protocol):
    """Where sealed shipments are to be had."""

    @property
    def name(self) -> str:
        """For people."""

    def volumes(self) -> list[SealedVolume]:
        """The sealed volumes there."""

    def shipments(self, uuid: str, line: str, start: int) -> Iterator[bytes]:
        """The sealed shipments of a line from the one that holds LSN `start` on."""


class SealedSource:
    """One line of one sealed volume: a `recover.JournalSource`."""

    def __init__(self, vault: SealedVault, volume: str, line: str, ring: KeyRing) -> None:
        self._vault = vault
        self._ring = ring
        self._line = line
        self._volume = find_sealed(vault.volumes(), volume)

    @property
    def name(self) -> str:
        """For people."""
        return self._vault.name

    @property
    def site(self) -> str:
        """Whose volume it is."""
        return self._volume.site

    def held(self) -> Held:
        """What the vault has. Digests are compared by `feed`, shipment by shipment."""
        for line in self._volume.lines:
            if line.line == self._line:
                description = self._volume.description
                next_lsn = Lsn(line.next_lsn)
                return Held(self._volume.uuid, description, self._line, next_lsn, None)
        lines = ", ".join(line.line for line in self._volume.lines)
        raise UnknownVolume(f"the volume has no line {self._line}", f"it has: {lines}")

    def feed(self, writer: LineWriter) -> Iterator[Lsn]:
        """Open what follows from the writer's position; the LSN that comes next, each time.

        BadShipment and KeyMissing; LinkDown when the line does not come back.
        """
        uuid = self._volume.uuid
        unsealer = Unsealer(self._ring, writer, bytes.fromhex(uuid))
        end = self.held().next_lsn
        while unsealer.next_lsn < end:
            before = unsealer.next_lsn
            for data in self._vault.shipments(uuid, self._line, before):
                unsealer.take(data)
                yield Lsn(unsealer.next_lsn)
                if unsealer.next_lsn >= end:
                    return
            if unsealer.next_lsn == before:
                raise BadShipment(
                    f"{self.name} told of LSN {end - 1}, and has nothing after LSN {before - 1}",
                    "check it at the vault: cdpfs vault verify",
                )


class SealedFolder:
    """A vault's folder on a disk at hand; the vault may be in service meanwhile."""

    def __init__(self, root: VaultRoot) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """For people."""
        return str(self._root.path)

    def volumes(self) -> list[SealedVolume]:
        """See `SealedVault`."""
        every = (self._root.volume(uuid) for uuid in self._root.volumes())
        return [describe(self._root, volume) for volume in every if volume.description.sealed]

    def shipments(self, uuid: str, line: str, start: int) -> Iterator[bytes]:
        """See `SealedVault`."""
        return held_shipments(self._root.store(uuid, line), start)


class SealedLink:
    """A vault over HTTP. A context manager.

    `transport` carries the bytes; `say` is told why it waits; `sleep` waits so many seconds.
    """

    def __init__(
        self,
        settings: LinkSettings,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._url = settings.url.rstrip("/")
        self._sleep = sleep
        self._say = say
        self._client = blocking_client(settings, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        """For people."""
        return self._url

    def volumes(self) -> list[SealedVolume]:
        """See `SealedVault`. Refused, LinkDown."""
        raw = b"".join(self._get("/v1/sealed", {}, MAX_ANSWER_BYTES))
        try:
            return msgspec.json.decode(raw, type=list[SealedVolume])
        except msgspec.MsgspecError as error:
            raise Refused(f"what answers at {self._url} is no vault: {error}") from error

    def shipments(self, uuid: str, line: str, start: int) -> Iterator[bytes]:
        """See `SealedVault`. LinkDown after MAX_FAILURES in a row; BadShipment for noise."""
        backoff, failures = Backoff(), 0
        rest = bytearray()
        while True:
            got = 0
            query = {"line": line, "from": str(start), "offset": str(len(rest))}
            try:
                for piece in self._get(f"/v1/volumes/{uuid}/sealed", query):
                    got += len(piece)
                    rest += piece
                    while (whole := _first_shipment(rest)) is not None:
                        start = read_header(whole).last_lsn + 1
                        del rest[: len(whole)]
                        yield whole
                if not got:
                    return
                failures = 0
            except (LinkDown, VaultBusy) as error:
                failures = 0 if got else failures + 1
                if failures >= MAX_FAILURES:
                    raise
                if got:
                    backoff.reset()
                self._say(f"{error}; trying again")
                self._sleep(backoff.next_s())

    def _get(self, path: str, query: dict[str, str], most: int | None = None) -> Iterator[bytes]:
        """An answer's bytes as they come. ReplicationError."""
        try:
            with self._client.stream("GET", self._url + path, params=query) as response:
                if response.status_code != 200:
                    raise refusal_error(response.status_code, _read(response, MAX_MESSAGE_BYTES))
                got = 0
                for piece in response.iter_raw():
                    got += len(piece)
                    if most is not None and got > most:
                        raise Refused("what answers there is no vault: its answer is too long")
                    yield piece
        except httpx.HTTPError as error:
            raise mapped_error(error) from error


def _read(response: httpx.Response, most: int) -> bytes:
    raw = b""
    for piece in response.iter_raw():
        raw += piece
        if len(raw) > most:
            break
    return raw


def _first_shipment(data: bytearray) -> bytes | None:
    """The whole shipment at the start of `data`; None when it is not whole yet. BadShipment."""
    if len(data) < HEADER_BYTES:
        return None
    size = read_header(bytes(data[:HEADER_BYTES])).total_bytes
    return bytes(data[:size]) if len(data) >= size else None


def find_sealed(volumes: Sequence[SealedVolume], wanted: str) -> SealedVolume:
    """The volume that a person named, by name or UUID. UnknownVolume."""
    found = [v for v in volumes if wanted in (v.uuid, v.description.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{v.description.name} ({v.uuid}, site {v.site})" for v in found or volumes)
    what = "is the name of several sealed volumes" if found else "is no sealed volume there"
    raise UnknownVolume(f"{wanted} {what}", f"name one of: {names or 'there are none'}")
