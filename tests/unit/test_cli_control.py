"""The client of the control socket, against a real socket on the other side."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from console.control import Control, connect_if_mounted
from console.errors import DaemonError, NotMounted
from store.volume import Store, new_config


@pytest.fixture
def volume(tmp_path: Path) -> Store:
    # Deeper than the 108 bytes that a socket address can hold.
    root = tmp_path / ("deep-" * 20) / ("deeper-" * 10) / "store"
    return Store.create(root, new_config(str(tmp_path / "tree"), 1))


@contextmanager
def answering(volume: Store, answer: Callable[[dict[str, object]], list[bytes]]) -> Iterator[None]:
    """A daemon that answers each request with the pieces of bytes that `answer` gives."""
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(volume.root, os.O_PATH)
    listener.bind(f"/proc/self/fd/{directory}/control.sock")
    os.close(directory)
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as requests:
            for line in requests:
                for piece in answer(json.loads(line)):
                    connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


def line(**reply: object) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def test_a_call_gives_the_result_and_reports_progress_on_the_way(volume: Store) -> None:
    asked = []

    def answer(request: dict[str, object]) -> list[bytes]:
        asked.append(request)
        done = line(ok=True, result={"lsn": 7})
        return [line(progress={"done": 1}), line(progress={"done": 2}) + done[:5], done[5:]]

    progress: list[object] = []
    with answering(volume, answer), Control(volume) as control:
        assert control.daemon_pid == os.getpid()
        assert control.call("sync", {"deep": True}, progress.append) == {"lsn": 7}
        assert control.call("sync") == {"lsn": 7}
    assert progress == [{"done": 1}, {"done": 2}]
    assert asked[0] == {"v": 1, "call": "sync", "args": {"deep": True}}


def test_an_error_answer_is_raised_with_its_kind_and_hint(volume: Store) -> None:
    error = {"kind": "busy", "message": "in use", "hint": "wait"}
    with (
        answering(volume, lambda _: [line(ok=False, error=error)]),
        Control(volume) as control,
        pytest.raises(DaemonError, match="in use") as caught,
    ):
        control.call("umount")
    assert caught.value.kind == "busy"
    assert caught.value.hints == ("wait",)


@pytest.mark.parametrize("reply", [b"nonsense\n", b"[1]\n", b'{"ok": true, "result": 3}\n'])
def test_what_is_no_answer_is_refused(volume: Store, reply: bytes) -> None:
    with (
        answering(volume, lambda _: [reply]),
        Control(volume) as control,
        pytest.raises(DaemonError),
    ):
        control.call("status")


def test_a_daemon_that_stays_silent_is_given_up_on(volume: Store) -> None:
    with (
        answering(volume, lambda _: []),
        Control(volume) as control,
        pytest.raises(NotMounted, match="has not answered"),
    ):
        control.call("status", timeout_s=0.01)


def test_without_a_daemon_the_volume_is_not_mounted(volume: Store) -> None:
    assert connect_if_mounted(volume) is None
    with pytest.raises(NotMounted) as caught:
        Control(volume)
    assert "cdpfs mount" in caught.value.hints[0]


def test_a_socket_that_a_killed_daemon_left_counts_as_not_mounted(volume: Store) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        directory = os.open(volume.root, os.O_PATH)
        dead.bind(f"/proc/self/fd/{directory}/control.sock")
        os.close(directory)
    assert volume.socket_path.exists()
    assert connect_if_mounted(volume) is None
