"""A real vault for tests: its folder, its certificates, its process, and a counting wire to it.

Everything goes through the `cdpfs` command line, as an administrator would do it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme

from replicator.vault.root import VaultRoot
from store.volume import Store
from tests.commandline import ROOT


class VaultProcess:
    """A vault below `base`, served over TLS on loopback once it is started."""

    def __init__(self, base: Path) -> None:
        base.mkdir()
        self.root = base / "root"
        self.ca = base / "ca.pem"
        self.log = base / "vault.log"
        self.port = free_port()
        self._base = base
        self._process: subprocess.Popen[bytes] | None = None
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(base / "server.pem"))
        (base / "server.pem").chmod(0o600)
        self.command("init", "--root", str(self.root))

    def command(self, *arguments: str) -> str:
        """Run `cdpfs vault ...`; what it prints."""
        return self._run("vault", *arguments)

    def replicate(self, *arguments: str) -> str:
        """Run `cdpfs replicate ...` at the vault; what it prints."""
        return self._run("replicate", *arguments)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "console", *arguments],
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def add_site(self, name: str) -> Path:
        """Make a site known; the file with its token."""
        return self._token_file(name, self.command("add-site", name, "--root", str(self.root)))

    def rotate(self, name: str) -> str:
        """A second token of a site."""
        return token_in(self.command("rotate-site", name, "--root", str(self.root)))

    def _token_file(self, name: str, said: str) -> Path:
        path = self._base / f"{name}.token"
        path.touch(0o600)
        path.write_text(token_in(said) + "\n")
        return path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Serve; returns when it can be connected to."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "console", "vault", "serve"),
                    *("--root", str(self.root), "--listen", f"localhost:{self.port}"),
                    *("--tls-cert", str(self._base / "server.pem")),
                    *("--tls-key", str(self._base / "server.pem")),
                ],
                env=dict(os.environ, PYTHONPATH=str(ROOT)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while True:
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("localhost", self.port)):
                return

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """It hangs from now on."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Leave no process behind."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()

    def replica(self, uuid: str, line: str = "main") -> Store:
        """The store of a volume's line. Only to be read while the vault serves."""
        return VaultRoot.open(self.root).store(uuid, line)


class Wire:
    """A TCP forwarder that counts what goes to the vault, and can be cut. A context manager."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.up_bytes = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in [end for pair in self._pairs for end in pair]:
            one.close()

    def cut(self) -> None:
        """Break every connection now."""
        for one in [end for pair in self._pairs for end in pair]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("localhost", self._target))
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            for ends in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._carry, args=ends, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            for data in _pieces(source):
                if up:
                    self.up_bytes += len(data)
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _pieces(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(1 << 14):
        yield data


def token_in(text: str) -> str:
    """The token in what a command printed."""
    found = re.search(r"cdpfs_[a-z0-9-]+_[\w-]{43}", text)
    assert found is not None, "no token was printed"
    return found[0]


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
