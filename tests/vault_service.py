"""A vault as a process of its own, with TLS or without, and a line to it that tests can spoil."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import trustme

from tests.volume import SOURCE


class VaultService:
    """`cdpfs vault serve` on a folder. `url` is where; `ca` proves it, if it has TLS."""

    def __init__(self, root: Path, base: Path, tls: bool = True) -> None:
        self.root = root
        self.log = base / "vault.log"
        self.ca = base / "ca.pem"
        self._options = ["--insecure-http"]
        if tls:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(self.ca)
            issued = authority.issue_cert("127.0.0.1", "localhost")
            cert, key = base / "vault.pem", base / "vault.key"
            for number, blob in enumerate(issued.cert_chain_pems):
                blob.write_to_path(cert, append=bool(number))
            issued.private_key_pem.write_to_path(key)
            self._options = ["--tls-cert", str(cert), "--tls-key", str(key)]
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.port = 0

    def start(self) -> None:
        """Serve; returns when it listens. Started again, it has the same address."""
        listen = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "console", "vault", "serve", "--root", str(self.root)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", listen, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=SOURCE,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert "http" in line, (line, self.log.read_text())
        self.url = next(word for word in line.split() if word.startswith("http"))
        self.port = int(self.url.rpartition(":")[2].rstrip("/"))

    def stop(self, kill: bool = False) -> None:
        """End it, in order or as a crash would."""
        process, self.process = self.process, None
        if process is not None:
            process.kill() if kill else process.terminate()
            process.communicate()

    def add(self, kind: str, name: str, base: Path) -> Path:
        """A new site or reader; returns the file with its token."""
        command = [sys.executable, "-m", "console", "vault", f"add-{kind}", name]
        done = subprocess.run(
            [*command, "--root", str(self.root)], cwd=SOURCE, check=True, capture_output=True
        )
        file = base / f"{name}.token"
        file.write_bytes(next(w for w in done.stdout.split() if w.startswith(b"cdpfs_")))
        file.chmod(0o600)
        return file


class Line:
    """A TCP line to `port` here. `spoil` may change what the far end says; `received` counts it."""

    def __init__(self, port: int, spoil: Callable[[bytes], bytes] | None = None) -> None:
        self._target = port
        self._spoil = spoil or bytes
        self.received = 0
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()  # nobody listens there at the moment
                continue
            with self._lock:
                self._ends += [near, far]
            self._start(self._carry, near, far)
            self._start(self._carry_back, far, near)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        self._hang_up(source, target)

    def _carry_back(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.received += len(data)
                target.sendall(self._spoil(data))
        self._hang_up(source, target)

    def _hang_up(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection; new ones can be made."""
        with self._lock:
            ends = list(self._ends)
        self._hang_up(*ends)

    def close(self) -> None:
        """End, with all of it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            ends = list(self._ends)
        self._hang_up(*ends)
        for thread in self._threads:
            thread.join()
        for end in ends:
            end.close()
