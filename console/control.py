"""Client of a volume's control socket.

Duty: one blocking connection that speaks JSON lines: a request, then any number of progress
replies, then the result or an error. One thread per connection. It must not know what the calls
mean; `fsd/control.py` is the other end.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from console.errors import DaemonError, NotMounted
from store.volume import Store

PROTOCOL_VERSION = 1
MAX_REPLY_BYTES = 16 << 20
"""A longer line is no reply of ours."""
STATUS_TIMEOUT_S = 15.0
"""A daemon that has not said how it is after this long counts as not answering."""

Json = dict[str, object]
_CREDENTIALS = struct.Struct("3i")


class Control:
    """A connection to the daemon of `store`. NotMounted when nobody listens there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _connect(self._socket, os.fsencode(store.socket_path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise not_mounted(store) from error
        except BaseException:
            self._socket.close()
            raise
        self._received = b""

    @property
    def daemon_pid(self) -> int:
        """Process id of the daemon, as the kernel knows it; 0 from another pid namespace."""
        size = _CREDENTIALS.size
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid: int = _CREDENTIALS.unpack(raw)[0]
        return pid

    def call(
        self,
        name: str,
        args: Mapping[str, object] | None = None,
        on_progress: Callable[[Json], None] | None = None,
        timeout_s: float | None = None,
    ) -> Json:
        """Ask and wait for the result. `timeout_s` bounds the silence between two replies.

        Raises DaemonError for what the daemon answers with an error, NotMounted when it goes
        away or stays silent.
        """
        request = {"v": PROTOCOL_VERSION, "call": name, "args": dict(args or {})}
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while True:
                reply = self._reply()
                if "progress" not in reply:
                    return _result(reply)
                if on_progress is not None:
                    on_progress(_mapping(reply["progress"]))
        except TimeoutError as error:
            raise self._silent(timeout_s) from error
        except (ConnectionError, EOFError) as error:
            raise NotMounted(
                f"the daemon of {self._store.config.directory} went away during the call",
                f"its log is {self._store.log_dir / 'fsd.log'}",
                f"mount the volume again: cdpfs mount {self._store.config.mount_point}",
            ) from error

    def _reply(self) -> Json:
        while b"\n" not in self._received:
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._received += data
            if len(self._received) > MAX_REPLY_BYTES:
                raise DaemonError("the daemon's answer is too long to be one")
        line, self._received = self._received.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise DaemonError("the daemon's answer is not JSON") from error
        return _mapping(reply)

    def _silent(self, timeout_s: float | None) -> NotMounted:
        return NotMounted(
            f"the daemon of {self._store.config.directory} (pid {self.daemon_pid}) has not "
            f"answered for {timeout_s:.0f} s",
            f"its log is {self._store.log_dir / 'fsd.log'}",
            f"if it is stuck: kill -9 {self.daemon_pid}, then "
            f"cdpfs mount {self._store.config.mount_point}; nothing that was written is lost",
        )

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def not_mounted(store: Store) -> NotMounted:
    """The error for a volume whose daemon does not run."""
    return NotMounted(
        f"{store.config.directory} is not mounted",
        f"mount it: cdpfs mount {store.config.mount_point}",
    )


def connect_if_mounted(store: Store) -> Control | None:
    """A connection to the daemon, or None when the volume is not mounted."""
    try:
        return Control(store)
    except NotMounted:
        return None


def _connect(connection: socket.socket, path: bytes) -> None:
    """Connect to a socket at a path of any length.

    A socket address holds at most 108 bytes, so the socket's directory goes in as a descriptor.
    """
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(b"/proc/self/fd/%d/%b" % (directory, os.path.basename(path)))
    finally:
        os.close(directory)


def _mapping(value: object) -> Json:
    if not isinstance(value, dict):
        raise DaemonError("the daemon's answer has an unknown form", "is it of the same version?")
    return value


def _result(reply: Json) -> Json:
    """The result of a closing reply; raises what it reports."""
    if reply.get("ok") is True:
        return _mapping(reply.get("result", {}))
    raise error_from(_mapping(reply.get("error", {})))


def error_from(error: Json) -> DaemonError:
    """The exception for an error object of the daemon: kind, message, hint."""
    hint = error.get("hint")
    return DaemonError(
        str(error.get("message") or "the daemon failed without a message"),
        *([str(hint)] if hint else []),
        kind=str(error.get("kind", "")),
    )
