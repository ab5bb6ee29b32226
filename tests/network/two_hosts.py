"""A site that replicates to a vault, each on its own end of a line. Everything by commands.

The site's mount and files are where all see them; only its network is its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trustme

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree
from tests.network.line import Line

LOOK_S = 0.05
PORT = 8443


class TwoHosts(ProtectedTree):
    """A protected tree at the site's end of `line`, a vault at the other; TLS between them."""

    def __init__(self, line: Line, top: Path) -> None:
        super().__init__(top)
        self.line = line
        self.root = top / "vault"
        self.url = f"https://{line.vault.ip}:{PORT}"
        authority = trustme.CA()
        self._ca, self._pem = top / "ca.pem", top / "server.pem"
        authority.cert_pem.write_to_path(str(self._ca))
        authority.issue_cert(line.vault.ip).private_key_and_cert_chain_pem.write_to_path(
            str(self._pem)
        )
        self._pem.chmod(0o600)
        self.run("vault", "init", "--root", str(self.root))
        token = self.json("vault", "add-site", "branch", "--root", str(self.root))["token"]
        self._token = top / "token"
        self._token.touch(0o600)
        self._token.write_text(token)
        self.vault: subprocess.Popen[bytes] | None = None

    def at_site(self, *arguments: str) -> bytes:
        """Run `cdpfs` with the site's network."""
        done = subprocess.run(
            self.line.site.command(sys.executable, "-P", "-m", "console", *arguments),
            env=self.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == ExitCode.OK, done.stderr.decode()
        return done.stdout

    def serve(self) -> None:
        """Start the vault; returns when it listens."""
        with (self.top / "vault.log").open("ab") as log:
            self.vault = self.line.vault.start(
                *(sys.executable, "-P", "-m", "console", "vault", "serve"),
                *("--root", str(self.root), "--listen", f"{self.line.vault.ip}:{PORT}"),
                *("--tls-cert", str(self._pem), "--tls-key", str(self._pem)),
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.vault.stdout is not None
        assert self.vault.stdout.readline(), (self.top / "vault.log").read_text()

    def protect(self, *options: str) -> None:
        """Mount, with the site's network."""
        self.at_site("protect", str(self.tree), *(options or RING))

    def second_tree(self, name: str) -> Path:
        """Protect another directory in the same way; `leave` it at the end."""
        tree = self.top / name
        tree.mkdir()
        self.at_site("protect", str(tree), *RING)
        return tree

    def leave(self, tree: Path) -> None:
        """Take the mount of a second tree away."""
        subprocess.run(["fusermount3", "-uz", str(tree)], check=False)

    def replicate(self, tree: Path | None = None) -> None:
        """Begin to replicate."""
        where = str(tree or self.tree)
        self.at_site(
            *("replicate", "start", where, "--to", self.url, "--ca", str(self._ca)),
            *("--token-file", str(self._token)),
        )

    def wait(self) -> None:
        """Until the vault has everything."""
        self.run("replicate", "wait", str(self.tree))

    def status(self, tree: Path | None = None) -> dict[str, Any]:
        """How replication is."""
        said: dict[str, Any] = self.json("replicate", "status", str(tree or self.tree))
        return said

    def throttle(self, *words: str) -> float:
        """Set the limit; the time from which on it is said to hold (monotonic)."""
        self.run("throttle", *words, str(self.tree))
        return time.monotonic()

    def until(self, key: str, value: object, tree: Path | None = None) -> dict[str, Any]:
        """Ask until the replicator says so; how replication is then."""
        while True:
            said = self.status(tree)
            if said[key] == value:
                return said
            time.sleep(LOOK_S)

    def work(self, name: str, size_bytes: int, tree: Path | None = None) -> None:
        """Write what can't be made smaller."""
        with open((tree or self.tree) / name, "wb", buffering=0) as file:
            while size_bytes > 0:
                size_bytes -= file.write(os.urandom(min(size_bytes, 1 << 20)))

    def end_vault(self) -> None:
        """The vault ends in order."""
        if self.vault is not None:
            with self.vault:
                self.vault.terminate()
            self.vault = None

    def kill_vault(self) -> None:
        """The vault is gone at once."""
        if self.vault is not None:
            with self.vault:
                self.vault.kill()
            self.vault = None

    def end(self) -> None:
        """Leave neither a mount nor a process behind."""
        super().end()
        self.end_vault()
