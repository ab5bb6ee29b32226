"""A vault as its operator has it: a folder, and `cdpfs vault serve` in a process of its own.

It keeps its port over restarts, can be killed, stopped for a while, given a wrong clock and, on a
disk of its own, no room. `close` leaves neither a process nor a mount behind.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import trustme

from replicator.settings import LinkSettings, ReplicaSettings, save_settings
from replicator.vault.root import VaultRoot
from replicator.vault.sites import Sites
from store.volume import Store
from tests.volume import SOURCE

FAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")
POLL_S = 0.01
SITE = "branch"
DISK_BYTES = 1 << 30
LEAVE_BYTES = 64 << 10


class FarVault:
    """A vault below `base`. `port` is where it listens on this machine, `link` how to get there.

    `tls`: with a certificate of an authority of its own. `own_disk`: on a small ext4 (needs root
    and loop devices). `clock`: it can be set (needs libfaketime).
    """

    def __init__(
        self, base: Path, *, tls: bool = False, own_disk: bool = False, clock: bool = False
    ) -> None:
        self._base = base
        base.mkdir(parents=True)
        self._disk = base / "disk"
        self._disk.mkdir()
        self._own_disk = own_disk
        if own_disk:
            self._make_disk()
        self.path = self._disk / "vault"
        self.log = base / "vault.log"
        self._clock = base / "clock" if clock else None
        self.set_clock(0)
        root = VaultRoot.create(self.path)
        self.token_file = base / "token"
        self.token_file.write_text(Sites(root.sites_dir).add(SITE, "site"))
        self.token_file.chmod(0o600)
        root.close()
        self.ca: Path | None = None
        if tls:
            self._make_certificate()
        with socket.create_server(("127.0.0.1", 0)) as chosen:
            self.port: int = chosen.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def _make_disk(self) -> None:
        image = self._base / "disk.img"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self._disk], check=True)
        shutil.rmtree(self._disk / "lost+found")

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        self.ca = self._base / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self._base / "cert.pem"))

    def settings(self, port: int | None = None) -> ReplicaSettings:
        """What a volume's `replica.toml` says to get here, by another port if one is given."""
        scheme = "http" if self.ca is None else "https"
        return ReplicaSettings(
            link=LinkSettings(
                url=f"{scheme}://127.0.0.1:{port or self.port}",
                token_file=str(self.token_file),
                ca=str(self.ca or ""),
            )
        )

    def keep(self, store: Store, port: int | None = None) -> None:
        """Have a volume replicate to here from its next mount on."""
        save_settings(store.root, self.settings(port))

    def store(self, source: Store, line: str = "main") -> Store:
        """The replica of a volume."""
        root = VaultRoot.open(self.path)
        try:
            return root.store(source.uuid.hex(), line)
        finally:
            root.close()

    # --- the process -----------------------------------------------------------------------------

    def start(self) -> None:
        """Serve; returns when it listens. AssertionError with its log if it ends instead."""
        assert self.process is None
        how = ["--insecure-http"]
        if self.ca is not None:
            pem = str(self._base / "cert.pem")
            how = ["--tls-cert", pem, "--tls-key", pem]
        where = ["--root", str(self.path), "--listen", f"127.0.0.1:{self.port}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "console", "vault", "serve", *where, *how],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=dict(os.environ, PYTHONPATH=str(SOURCE), **self._faked()),
            )
        while not self._listens():
            assert self.process.poll() is None, self.log_text()[-4000:]
            time.sleep(POLL_S)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it with kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        """End it in order."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait()
        self.process = None
        assert code == 0, self.log_text()[-4000:]

    def freeze(self, seconds: float) -> None:
        """Let it stand still for a while."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Leave nothing behind but files."""
        if self.process is not None:
            self.kill()
        if self._own_disk:
            subprocess.run(["umount", self._disk], check=True)
            self._own_disk = False

    def log_text(self) -> str:
        """What it said so far."""
        return self.log.read_text() if self.log.exists() else ""

    # --- its clock and its disk ------------------------------------------------------------------

    def _faked(self) -> dict[str, str]:
        """The wall clock alone: waiting goes on as ever, and files keep their times."""
        if self._clock is None:
            return {}
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set_clock(self, ahead_s: int) -> None:
        """From now on its clock is so far ahead of ours; behind, if negative."""
        if self._clock is not None:
            new = self._clock.with_name("clock.new")
            new.write_text(f"{ahead_s:+d}\n")
            new.rename(self._clock)

    def fill_disk(self) -> None:
        """Leave hardly any room on its own disk."""
        room = os.statvfs(self._disk)
        size = room.f_bavail * room.f_frsize - LEAVE_BYTES
        with (self._disk / "ballast").open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(size, 1))

    def empty_disk(self) -> None:
        """Give the room back."""
        (self._disk / "ballast").unlink(missing_ok=True)


def can_have_disk() -> bool:
    """May this process mount an image?"""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()
