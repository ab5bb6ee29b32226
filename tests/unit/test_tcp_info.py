"""The kernel's counts of a connection: at the places where we read them stands what we think."""

import socket
from collections.abc import Iterator

import pytest
import trio

from replicator.tcp_info import header_bytes, read_tcp_info, wire_bytes

SENT = b"x" * 100_000


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener:
        near = socket.create_connection(listener.getsockname()[:2])
        far, _ = listener.accept()
    with near, far:
        yield near, far


async def test_what_was_sent_and_received_is_counted(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = (trio.socket.from_stdlib_socket(one) for one in pair)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            left = memoryview(SENT)
            while left:
                left = left[await near.send(left) :]

        nursery.start_soon(send)
        received = 0
        while received < len(SENT):
            received += len(await far.recv(1 << 16))
    out, into = read_tcp_info(near), read_tcp_info(far)
    assert out is not None
    assert into is not None
    # TCP sends again what a busy machine acknowledges late, on the loopback interface as well.
    assert out.sent_bytes - out.retransmitted_bytes == len(SENT)
    assert (out.unsent_bytes, out.received_bytes) == (0, 0)
    assert (into.sent_bytes, into.received_bytes) == (0, len(SENT))
    # Opening takes two of our segments, and each full one carries `mss` at most.
    assert out.segments_out >= 2 + len(SENT) // out.mss
    assert into.segments_in == out.segments_out
    assert out.mss > 1000
    assert out.wire_out_bytes == out.sent_bytes + out.segments_out * out.header_bytes
    assert out.delivery_bytes_s > 0


def test_headers_are_those_of_ethernet_ip_and_tcp() -> None:
    assert header_bytes(socket.AF_INET) == 14 + 20 + 32
    assert header_bytes(socket.AF_INET6) == 14 + 40 + 32
    assert header_bytes(socket.AF_INET, timestamps=False) == 14 + 20 + 20


def test_payload_goes_in_full_segments() -> None:
    assert wire_bytes(0, 1448, 66) == 0
    assert wire_bytes(1448, 1448, 66) == 1514
    assert wire_bytes(1449, 1448, 66) == 1449 + 2 * 66
