"""A replica of a real volume for tests: shipped when the test says so, mounted by its own process.

What a volume's journal holds is made into shipments and taken in as a vault does; no link lies
between. `close` leaves neither a mount nor a process behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from replicator.shipment import ShippedBatch, encode_shipment
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.wire import Description
from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tests.volume import SOURCE, is_mounted


class Replica:
    """What a vault at `base` holds of a store's journal. `mount_point` is where it is looked at."""

    def __init__(self, base: Path, source: Store) -> None:
        self.source = source
        self.vault = base / "vault"
        config = source.config
        about = Description(
            name=config.name,
            directory=config.directory,
            created_ns=config.created_ns,
            quiet_s=config.quiet_s,
            point_limit_s=config.point_limit_s,
        )
        root = VaultRoot.create(self.vault)
        root.create_volume("branch", config.uuid, about)
        self.store = root.store(config.uuid)
        root.close()
        self.mount_point = base / "replica"
        self.mount_point.mkdir()
        self.log = base / "replica.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._writer: LineWriter | None = LineWriter.open(self.store)
        self._journal = Journal(source)

    @property
    def writer(self) -> LineWriter:
        """What takes shipments in."""
        assert self._writer is not None
        return self._writer

    def ship(self, up_to: int = 1 << 62, at_once: int = 1) -> int:
        """Bring over what is missing up to LSN `up_to`; returns the newest LSN that is held."""
        while batches := self._missing(up_to, at_once):
            previous = self.writer.position()[1]
            self.writer.take(encode_shipment(self.source.uuid, previous, batches))
        return self.writer.position()[0] - 1

    def _missing(self, up_to: int, at_once: int) -> list[ShippedBatch]:
        start = self.writer.position()[0]
        found: list[ShippedBatch] = []
        with self._journal.snapshot() as snapshot:
            if snapshot.indexed_lsn < start:
                return found
            for place in snapshot.batches(Lsn(start)):
                if len(found) == at_once or place.last_lsn > up_to:
                    break
                header, ops = snapshot.read_batch(place)
                found.append(ShippedBatch(ops, header.digest))
        return found

    def batch_ends(self) -> list[int]:
        """The newest LSN of each batch of the source."""
        with self._journal.snapshot() as snapshot:
            return [place.last_lsn for place in snapshot.batches(Lsn(1))]

    def mount(self) -> dict[str, Any]:
        """Mount it; returns what the process says. AssertionError with its log if it can't."""
        answer = self.try_mount()
        assert answer.get("ok"), (answer, self.log_text())
        return answer

    def try_mount(self) -> dict[str, Any]:
        """Mount it; returns what the process says, or {} when it ends without a word."""
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "fsd.replica_mount", str(self.store.root)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.mount_point), "--ready-fd", str(writer)],
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=SOURCE,
                start_new_session=True,
            )
        os.close(writer)
        with open(reader, "rb") as answers:
            for line in answers:
                answer: dict[str, Any] = json.loads(line)
                return answer
        return {}

    def unmount(self) -> None:
        """Unmount in order, and wait until the process has ended."""
        subprocess.run(["fusermount3", "-u", str(self.mount_point)], check=True)
        assert self.process is not None
        code = self.process.wait()
        self.process = None
        assert code == 0, self.log_text()

    def past(self, lsn: int) -> Path:
        """The tree as of an LSN."""
        return self.mount_point / ".snapshots" / f"@lsn:{lsn}"

    def shown_lsn(self) -> int:
        """How far the mount shows at the moment."""
        words = os.getxattr(self.mount_point, "user.cdpfs.point").decode().split()
        return int(dict(word.split("=", 1) for word in words[:6])["lsn"])

    def log_text(self) -> str:
        """What the process said so far."""
        return self.log.read_text() if self.log.exists() else ""

    def stop_writing(self) -> None:
        """Let another process write the line."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        """Leave nothing behind."""
        while is_mounted(self.mount_point):
            subprocess.run(["fusermount3", "-uz", str(self.mount_point)], check=False)
        process, self.process = self.process, None
        if process is not None:
            process.wait()
        self.stop_writing()
        self._journal.close()
