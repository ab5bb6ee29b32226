"""A volume's journal from a vault over HTTP: the source of a recovery.

Duty: a `replicator.recover.JournalSource`. A line that breaks is tried again for ever, with growing
pauses, and goes on at the byte where it broke; what is on disk already is not fetched again.
Blocking; one thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

import httpx
import msgspec
from blake3 import blake3

from replicator.errors import BadShipment, LinkDown, Refused, Sealed, UnknownVolume, VaultBusy
from replicator.link import blocking_client, mapped_error, refusal_error
from replicator.pace import Backoff
from replicator.reading_wire import DIGEST_HEADER, VolumeMessage
from replicator.recover import Held
from replicator.settings import LinkSettings
from replicator.shipment import HEADER_BYTES, SHIPMENT_HEADER
from replicator.vault.ingest import LineWriter
from replicator.wire import (
    MAX_MESSAGE_BYTES,
    MAX_SHIPMENT_BYTES,
    Lines,
    Position,
)
from store.types import Lsn

MAX_DAMAGED: Final = 5
"""Shipments in a row that arrive damaged; then it is not the line."""


class VaultUrl:
    """One line of one volume at a vault. A context manager.

    `say` is told why it waits; `sleep` waits so many seconds.
    """

    def __init__(
        self,
        settings: LinkSettings,
        volume: str,
        say: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = settings.url.rstrip("/")
        self._line = settings.line
        self._volume = volume
        self._say = say
        self._sleep = sleep
        self._backoff = Backoff()
        self._client = blocking_client(settings)
        self._uuid = ""
        self._wanted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        """For people."""
        return self._url

    def held(self) -> Held:
        """What the vault has of the line. UnknownVolume, Sealed, Refused."""
        self._uuid = self._find()
        about = self._ask(f"/v1/volumes/{self._uuid}/lines", Lines)
        known = [line.line for line in about.lines]
        if self._line not in known:
            raise UnknownVolume(
                f"the volume has no line {self._line}", f"name one of: {', '.join(known)}"
            )
        where = f"/v1/volumes/{self._uuid}/position?line={self._line}"
        position = self._ask(where, Position)
        digest = bytes.fromhex(position.digest)
        return Held(self._uuid, about.description, self._line, Lsn(position.next_lsn), digest)

    def _find(self) -> str:
        volumes: list[VolumeMessage] = self._ask("/v1/volumes", list[VolumeMessage])
        found = [each for each in volumes if self._volume in (each.uuid, each.name)]
        if len(found) != 1:
            names = ", ".join(f"{v.name} ({v.uuid}, site {v.site})" for v in found or volumes)
            what = "is the name of several volumes" if found else "is no volume of this vault"
            raise UnknownVolume(
                f"{self._volume} {what}", f"name one of: {names or 'there are none for this token'}"
            )
        if found[0].sealed:
            raise Sealed(f"{found[0].name} is sealed: the vault can't read it")
        return found[0].uuid

    def feed(self, writer: LineWriter) -> Iterator[Lsn]:
        """Shipments from the writer's position on, each one tested and on disk before it counts.

        The next one is fetched while one is taken in.
        """
        damaged = 0
        with ThreadPoolExecutor(1, "fetch") as fetcher, self._while_wanted():
            coming = fetcher.submit(self._shipment, writer.position()[0])
            while (data := coming.result()) is not None:
                coming = fetcher.submit(self._shipment, _following(data))
                try:
                    writer.take(data)
                except BadShipment as error:
                    damaged += 1
                    if damaged == MAX_DAMAGED:
                        raise
                    self._say(f"what arrived is damaged, and is fetched again: {error}")
                    coming.exception()  # waits; what it brought is of no use
                    coming = fetcher.submit(self._shipment, writer.position()[0])
                    continue
                damaged = 0
                yield writer.position()[0]

    @contextlib.contextmanager
    def _while_wanted(self) -> Iterator[None]:
        """When the block ends, nobody waits for the line to come back any more."""
        self._wanted = True
        try:
            yield
        finally:
            self._wanted = False

    def _shipment(self, start: int) -> bytes | None:
        """The shipment that starts with an LSN; None when nothing follows."""
        got, digest = bytearray(), ""
        while True:
            before = len(got)
            path = f"/v1/volumes/{self._uuid}/shipments"
            query = {"line": self._line, "from": str(start), "offset": str(len(got))}
            try:
                with self._client.stream("GET", self._url + path, params=query) as response:
                    if response.status_code == 204:
                        return None
                    if response.status_code != 200:
                        raise refusal_error(response.status_code, _read(response))
                    said = response.headers.get(DIGEST_HEADER, "")
                    if said != digest and got:
                        got.clear()  # the vault cuts it otherwise now: from the beginning
                        digest = ""
                        continue
                    digest = said
                    for piece in response.iter_raw():
                        got += piece
                        if len(got) > MAX_SHIPMENT_BYTES:
                            raise Refused("what answers there is no vault: its answer is too long")
            except httpx.HTTPError as error:
                self._wait(mapped_error(error), len(got) > before)
                continue
            except VaultBusy as error:
                self._wait(error, len(got) > before)
                continue
            if blake3(got).hexdigest() == digest:
                return bytes(got)
            self._wait(LinkDown("what arrived is damaged"), progress=False)
            got.clear()
            digest = ""

    def _wait(self, error: Exception, progress: bool) -> None:
        """Before the next try; raises what no waiting mends."""
        if not (self._wanted and isinstance(error, LinkDown | VaultBusy)):
            raise error
        if progress:
            self._backoff.reset()
        pause_s = self._backoff.next_s()
        self._say(f"{error}; trying again")
        self._sleep(pause_s)

    def _ask(self, path: str, kind: Any) -> Any:
        """One message. Not tried again: a person waits for it."""
        try:
            with self._client.stream("GET", self._url + path) as response:
                raw = _read(response)
        except httpx.HTTPError as error:
            raise mapped_error(error) from error
        if response.status_code != 200:
            raise refusal_error(response.status_code, raw)
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise Refused(
                f"what answers at {self._url} is not a vault of this version: {error}"
            ) from error


def _following(data: bytes) -> int:
    """The LSN after a shipment's last one, by its header, which is checked when it is taken in."""
    if len(data) < HEADER_BYTES:
        raise BadShipment("this is not a shipment")
    last = SHIPMENT_HEADER.unpack(data[:HEADER_BYTES])["last_lsn"]
    assert isinstance(last, int)
    return last + 1


def _read(response: httpx.Response) -> bytes:
    raw = b""
    for piece in response.iter_raw():
        raw += piece
        if len(raw) > MAX_MESSAGE_BYTES:
            raise Refused("what answers there is no vault: its answer is too long")
    return raw
