"""The line of the campaign of kind `link` does to what it carries what it says it does."""

from __future__ import annotations

import contextlib
import http.client
import random
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from replicator.shipment import HEADER_BYTES, SHIPMENT_HEADER
from tests.crash.line import Fault, Line
from tests.crash.requests import Requests, Traffic

PLACE = "/v1/volumes/" + "0" * 32 + "/shipments/"
RATE = 1 << 20


class Sink(BaseHTTPRequestHandler):
    """Takes every body; `taken` has them all, `begun` counts requests."""

    protocol_version = "HTTP/1.1"
    taken: list[bytes]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(body)
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Setting:
    """A line to a sink."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        handler = type("SinkOfOne", (Sink,), {"taken": self.taken})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.line = Line(self._server.server_address[:2], random.Random(1), RATE, tls=False)

    def put(self, body: bytes, name: str = "a" * 32, start: int = 0, total: int = 0) -> int:
        """Send a body through the line; the status of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.line.port)
        last = start + len(body) - 1
        headers = {"Content-Range": f"bytes {start}-{last}/{total or last + 1}"}
        with contextlib.closing(connection):
            connection.request("PUT", PLACE + name, body, headers)
            return connection.getresponse().status

    def close(self) -> None:
        self.line.close()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.close()


def with_faults(setting: Setting, *faults: Fault) -> None:
    """Give the line these faults to choose, in this order, and no more."""
    waiting = list(faults)
    setting.line.draw = lambda _: waiting.pop(0) if waiting else None  # type: ignore[method-assign]


def shipment(first: int, last: int, size: int) -> bytes:
    """Bytes that begin like a shipment."""
    values = dict.fromkeys((field.name for field in SHIPMENT_HEADER.fields), 0)
    values |= {"magic": b"CDPSHIP\0", "volume": bytes(16), "previous": bytes(32)}
    header = SHIPMENT_HEADER.pack(**values | {"first_lsn": first, "last_lsn": last})
    return header + bytes(size - HEADER_BYTES)


def test_a_good_line_carries_everything_and_counts_nothing_as_wasted(setting: Setting) -> None:
    body = shipment(1, 9, 50_000)
    assert setting.put(body) == 200
    assert setting.taken == [body]
    assert setting.line.traffic.wasted_bytes() == 0
    assert setting.line.traffic.body_bytes == len(body) < setting.line.traffic.bytes_up


def test_a_reset_comes_in_the_midst_of_a_body(setting: Setting) -> None:
    with_faults(setting, Fault("reset"))
    with pytest.raises(OSError, match=r"reset|closed|Broken pipe"):
        setting.put(shipment(1, 9, 500_000))
    assert setting.line.faults == {"reset": 1}
    assert setting.line.traffic.body_bytes > 0
    assert setting.put(b"x" * 1000) == 200


def test_the_vault_gets_a_request_whose_answer_is_lost(setting: Setting) -> None:
    with_faults(setting, Fault("unheard", "down"))
    with pytest.raises((OSError, http.client.HTTPException)):
        setting.put(b"x" * 1000)
    assert setting.taken == [b"x" * 1000]


def test_a_flip_changes_one_bit(setting: Setting) -> None:
    with_faults(setting, Fault("flip", at=20_000))
    assert setting.put(bytes(50_000)) == 200
    assert sum(byte.bit_count() for byte in setting.taken[0]) == 1


def test_a_request_is_heard_twice(setting: Setting) -> None:
    with_faults(setting, Fault("twice"))
    assert setting.put(b"x" * 1000) == 200
    wait_for(lambda: len(setting.taken) == 2)
    assert setting.taken == [b"x" * 1000] * 2


def test_a_late_request_arrives_after_what_was_sent_after_it(setting: Setting) -> None:
    with_faults(setting, Fault("late"))
    with pytest.raises((OSError, http.client.HTTPException)):
        setting.put(b"old" * 1000)
    assert setting.put(b"new" * 1000) == 200
    wait_for(lambda: len(setting.taken) == 2)
    assert setting.taken[-1] == b"old" * 1000


def test_an_old_request_is_replayed(setting: Setting) -> None:
    assert not setting.line.replay()
    setting.put(b"x" * 1000)
    assert setting.line.replay()
    assert setting.taken == [b"x" * 1000] * 2
    assert setting.line.answers == {"200": 1}


def test_what_is_sent_again_counts_as_wasted_and_a_resumed_part_does_not() -> None:
    traffic = Traffic()
    requests = Requests(lambda head, body: None)
    whole = shipment(1, 9, 1000)

    def send(body: bytes, name: str, start: int, length: int) -> None:
        where = f"bytes {start}-{len(body) - 1}/{len(body)}"
        head = f"PUT {PLACE}{name} HTTP/1.1\r\nContent-Range: {where}\r\n"
        head += f"Content-Length: {length}\r\n\r\n"
        for piece in (head.encode(), body[start : start + length]):
            traffic.note(len(piece), requests.feed(piece))

    send(whole, "a" * 32, 0, 600)
    send(whole, "a" * 32, 500, 500)
    assert traffic.wasted_bytes() == 100
    send(shipment(1, 12, 700), "b" * 32, 0, 700)
    assert traffic.wasted_bytes() == 800
    send(shipment(10, 12, 700), "c" * 32, 0, 700)
    assert traffic.wasted_bytes() == 800


def wait_for(condition: object) -> None:
    """Until it holds."""
    assert callable(condition)
    while not condition():
        time.sleep(0.01)
