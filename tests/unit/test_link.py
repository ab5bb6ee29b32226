"""The line to a vault: whatever answers there, the sender gets one of our own errors."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import msgspec
import outcome
import pytest
import trio

from replicator import errors
from replicator.errors import (
    BadToken,
    Forked,
    Gap,
    LinkDown,
    Refused,
    ReplicationError,
    VaultBusy,
)
from replicator.link import PIECE_BYTES, Link
from replicator.settings import LinkSettings
from replicator.wire import MAX_MESSAGE_BYTES, Hello, Position, Refusal

TOKEN = "cdpfs_branch_secret"
VOLUME = bytes(16)
POSITION = Position(line="main", next_lsn=7, digest="0" * 64, visible_lsn=3)


class Peer:
    """Something that listens, takes a request, and answers with `answer`, whatever was asked."""

    def __init__(self, answer: bytes, after_bytes: int = 0) -> None:
        self._answer = answer
        self._after_bytes = after_bytes
        self.received = b""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            while self._wants_more():
                data = await stream.receive_some(1 << 16)
                if not data:
                    return
                self.received += data
            if self._answer:
                await stream.send_all(self._answer)

    def _wants_more(self) -> bool:
        head, end, body = self.received.partition(b"\r\n\r\n")
        if self._after_bytes:
            return len(self.received) < self._after_bytes
        length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
        return not end or len(body) < int(length[0].split(b":")[1] if length else 0)


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body


def refusal(status: int, kind: str) -> bytes:
    return answer(status, msgspec.json.encode(Refusal(kind=kind, message="no", hint="do so")))


def link_to(port: int) -> Link:
    settings = LinkSettings(url=f"http://127.0.0.1:{port}")
    return Link(settings, TOKEN, httpx.AsyncHTTPTransport())


async def ask(peer: Peer, work: Callable[[Link], Any] = lambda link: link.hello()) -> Any:
    """What a call comes to; an error of ours is raised as it is."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, peer.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        async with link_to(listeners[0].socket.getsockname()[1]) as link:
            try:
                found: outcome.Outcome[Any] = outcome.Value(await work(link))
            except ReplicationError as error:
                found = outcome.Error(error)
        nursery.cancel_scope.cancel()
    return found.unwrap()


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"", LinkDown),
        (b"SSH-2.0-OpenSSH_9.2\r\n", LinkDown),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", LinkDown),
        (answer(200, b"<html>It works!</html>"), Refused),
        (answer(200, b"[" * 100_000), Refused),
        (answer(200, b" " * (MAX_MESSAGE_BYTES + 1)), Refused),
        (answer(204, b""), Refused),
        (answer(302, b""), Refused),
        (answer(404, b"nothing here"), Refused),
        (answer(429, b""), VaultBusy),
        (answer(502, b"bad gateway"), VaultBusy),
        (refusal(401, "BadToken"), BadToken),
        (refusal(409, "Gap"), Gap),
        (refusal(409, "Forked"), Forked),
        (refusal(503, "VaultBusy"), VaultBusy),
        (refusal(403, "KeyboardInterrupt"), Refused),
        (refusal(503, "NoSuchThing"), VaultBusy),
        (refusal(418, ""), Refused),
    ],
)
async def test_whatever_answers_is_one_of_our_errors(
    raw: bytes, wanted: type[ReplicationError]
) -> None:
    with pytest.raises(ReplicationError) as caught:
        await ask(Peer(raw))
    assert type(caught.value) is wanted
    assert caught.value.hint
    assert TOKEN not in f"{caught.value} {caught.value.hint}"


async def test_nobody_there_is_a_line_that_is_down() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with link_to(port) as link:
        with pytest.raises(LinkDown, match="refused"):
            await link.hello()


async def test_another_protocol_is_refused_by_name() -> None:
    said = Hello(protocol=99, vault="v", site="s", time_ns=1, max_shipment_bytes=1)
    with pytest.raises(Refused, match="protocol 99"):
        await ask(Peer(answer(200, msgspec.json.encode(said))))


async def test_a_shipment_goes_on_where_it_is_told_and_progress_is_said() -> None:
    data = bytes(range(256)) * 400
    start = 1234
    seen: list[int] = []
    peer = Peer(answer(200, msgspec.json.encode(POSITION)))
    found = await ask(
        peer, lambda link: link.ship(VOLUME, "main", "ab" * 16, data, start, seen.append)
    )
    assert found == POSITION
    head, _, body = peer.received.partition(b"\r\n\r\n")
    assert body == data[start:]
    assert b"bytes %d-%d/%d" % (start, len(data) - 1, len(data)) in head
    assert b"?line=main HTTP/1.1" in head
    assert f"Bearer {TOKEN}".encode() in head
    assert seen == sorted(seen)
    assert seen[-1] == len(data)
    assert len(seen) == -(-(len(data) - start) // PIECE_BYTES)


async def test_a_shipment_that_is_there_as_a_whole_is_asked_about_with_no_bytes() -> None:
    peer = Peer(answer(200, msgspec.json.encode(POSITION)))
    data = b"x" * 100
    seen: list[int] = []
    await ask(peer, lambda link: link.ship(VOLUME, "main", "ab" * 16, data, 100, seen.append))
    head, _, body = peer.received.partition(b"\r\n\r\n")
    assert (body, b"bytes */100" in head) == (b"", True)


async def test_a_refusal_in_the_midst_of_a_shipment_is_heard() -> None:
    peer = Peer(refusal(409, "Gap"), after_bytes=20_000)
    data = b"x" * (40 << 20)
    seen: list[int] = []
    with pytest.raises((Gap, LinkDown)):
        await ask(peer, lambda link: link.ship(VOLUME, "main", "ab" * 16, data, 0, seen.append))
    assert len(seen) < len(data) // PIECE_BYTES


def test_every_kind_of_error_has_a_hint() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ReplicationError)
    ]
    assert all(kind.hint for kind in kinds)
