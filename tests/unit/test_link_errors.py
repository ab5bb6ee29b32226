"""What a person is told when what answers is no vault."""

from __future__ import annotations

import socket
import threading

import pytest
import trio

from replicator.errors import LinkDown
from replicator.link import Link
from replicator.settings import LinkSettings


def _answer(listener: socket.socket, words: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 12)
        connection.sendall(words)


async def test_a_server_without_tls_is_told_as_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer, args=(listener, b"HTTP/1.1 400 Bad\r\n\r\n"))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with await trio.to_thread.run_sync(Link.open, LinkSettings(url=url)) as link:
            with pytest.raises(LinkDown, match=r"TLS failed: .*wrong version"):
                await link.hello()
        thread.join()
