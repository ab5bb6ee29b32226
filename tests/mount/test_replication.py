"""Replication end to end: a real mount, a real vault over TLS, and both killed at bad moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from console.exit_codes import ExitCode
from replicator.status import read_status
from store.holds import read_holds
from store.verify import verify
from tests.commandline import ROOT
from tests.unit.shipping import all_batches, same_history
from tests.vault_process import VaultProcess, Wire
from tests.volume import Volume

RESUME_UNIT_BYTES = 6 << 20
"""What a broken connection may cost: what both kernels and the wire between had taken already."""


class Branch:
    """A volume that is mounted, and its site at the vault."""

    def __init__(self, base: Path, vault: VaultProcess) -> None:
        base.mkdir()
        self.volume = Volume(base)
        self.vault = vault
        self.token_file = vault.add_site("branch")

    def run(self, *arguments: str, code: ExitCode = ExitCode.OK) -> str:
        """`cdpfs replicate ...` on the volume; what it prints."""
        command, *rest = arguments
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "console", "replicate", command),
                *(str(self.volume.tree), *rest, "--store", str(self.volume.store.root)),
            ],
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stderr.decode())
        return (done.stdout + done.stderr).decode()

    def start(self, url: str | None = None, code: ExitCode = ExitCode.OK) -> str:
        """Replicate to the vault."""
        credentials = ("--token-file", str(self.token_file), "--ca", str(self.vault.ca))
        return self.run("start", "--to", url or self.vault.url, *credentials, code=code)

    def take_in(self, parcel: Path, position: Path) -> None:
        """Import a parcel at the vault, which is not being served."""
        self.vault.replicate(
            *("import", str(parcel), "--root", str(self.vault.root), "--site", "branch"),
            *("--position-to", str(position)),
        )

    def has(self, lsn: int) -> bool:
        """Has the vault acknowledged so much?"""
        said = read_status(self.volume.store.root)
        return said is not None and said.acked_lsn >= lsn

    def status(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.run("status", "--json"))
        return said

    def await_status(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look until the status is as wanted."""
        while True:
            said = self.status()
            if wanted(said):
                return said

    def check_replica(self) -> None:
        """The vault has the same history, batch by batch."""
        source, replica = self.volume.store, self.vault.replica(self.volume.store.config.uuid)
        batches = all_batches(replica)
        assert all_batches(source)[: len(batches)] == batches
        assert batches

    def replicator_pid(self) -> int:
        """Wait for it: it may be about to be started again."""
        while True:
            pid = int(self.volume.call("status")["pids"].get("replicator", 0))
            if pid:
                return pid

    def write(self, name: str, size: int, seed: int = 0) -> None:
        """A file that does not compress."""
        (self.volume.tree / name).write_bytes(random.Random(seed).randbytes(size))


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[VaultProcess]:
    made = VaultProcess(tmp_path / "vault")
    made.start()
    try:
        yield made
    finally:
        made.close()
    text = made.log.read_text()
    assert "Traceback" not in text, text


@pytest.fixture
def branch(tmp_path: Path, vault: VaultProcess) -> Iterator[Branch]:
    made = Branch(tmp_path / "site", vault)
    try:
        made.volume.mount()
        yield made
    finally:
        made.volume.close()
    for log in (made.volume.log, made.volume.store.log_dir / "replicator.log"):
        text = log.read_text() if log.exists() else ""
        assert "Traceback" not in text, text
        assert " ERROR " not in text, text
        assert made.token_file.read_text().strip() not in text


def test_what_is_written_arrives(branch: Branch) -> None:
    branch.start()
    (branch.volume.tree / "letter").write_text("hello")
    branch.run("wait")
    said = branch.status()
    assert said["acked_lsn"] >= branch.volume.call("status")["indexed_lsn"] - 1
    assert said["state"] in ("idle", "sending")
    assert (said["limit_bps"], said["lag_bytes"], said["line"]) == (None, 0, "main")
    assert branch.volume.call("status")["replication"]["acked_lsn"] >= said["acked_lsn"]
    branch.volume.unmount()
    branch.check_replica()
    assert verify(branch.vault.replica(branch.volume.store.config.uuid)).sound


def test_what_was_there_before_replication_began_arrives_too(branch: Branch) -> None:
    for number in range(5):
        branch.write(f"old{number}", 300_000, number)
        branch.volume.sync()
    branch.start()
    branch.run("wait")
    branch.check_replica()
    assert len(all_batches(branch.vault.replica(branch.volume.store.config.uuid))) >= 5


def test_the_hold_follows_what_the_vault_has(branch: Branch) -> None:
    branch.start()
    branch.write("file", 10_000)
    branch.run("wait")
    branch.await_status(lambda said: said["state"] == "idle")
    branch.volume.unmount()
    held = read_holds(branch.volume.store.root)["replica"]
    said = read_status(branch.volume.store.root)
    assert said is not None
    assert 0 < held <= said.acked_lsn


@pytest.mark.parametrize("seed", range(3))
def test_kills_of_every_process_lose_nothing(branch: Branch, seed: int) -> None:
    chance = random.Random(seed)
    branch.start()
    for number in range(12):
        branch.write(f"file{number % 4}", chance.randrange(1, 2_000_000), number)
        victim = chance.choice(("replicator", "fsd", "vault", "nobody"))
        if victim == "replicator":
            os.kill(branch.replicator_pid(), signal.SIGKILL)
        elif victim == "fsd":
            branch.volume.kill()
            branch.volume.mount()
        elif victim == "vault":
            branch.vault.kill()
            branch.vault.start()
    branch.run("wait")
    branch.volume.unmount()
    branch.check_replica()
    assert verify(branch.vault.replica(branch.volume.store.config.uuid)).sound


def test_a_broken_line_costs_no_more_than_a_resume_unit(branch: Branch) -> None:
    size = 24 << 20
    with Wire(branch.vault.port) as wire:
        branch.write("large", size)
        newest = branch.volume.sync()
        branch.start(wire.url)
        cuts = 0
        while not branch.has(newest):
            if wire.up_bytes > (cuts + 1) * size // 5:
                wire.cut()
                cuts += 1
        assert cuts >= 3
        assert wire.up_bytes < size * 1.05 + cuts * RESUME_UNIT_BYTES
    branch.check_replica()


def test_a_killed_replicator_goes_on_with_the_same_bytes(branch: Branch) -> None:
    size = 24 << 20
    with Wire(branch.vault.port) as wire:
        branch.write("large", size)
        newest = branch.volume.sync()
        branch.start(wire.url)
        kills = 0
        while not branch.has(newest):
            if wire.up_bytes > (kills + 1) * size // 5:
                os.kill(branch.replicator_pid(), signal.SIGKILL)
                kills += 1
        assert kills >= 3
        assert wire.up_bytes < size * 1.05 + kills * RESUME_UNIT_BYTES
    branch.check_replica()


@pytest.mark.parametrize("hung", [True, False], ids=["hung", "dead"])
def test_the_mount_does_not_wait_for_the_vault(branch: Branch, hung: bool) -> None:
    branch.start()
    branch.write("before", 100_000)
    branch.run("wait")
    if hung:
        branch.vault.pause()
    else:
        branch.vault.kill()
    for number in range(50):
        with (branch.volume.tree / "log").open("ab") as file:
            file.write(b"line %d\n" % number)
            file.flush()
            os.fsync(file.fileno())
    newest = branch.volume.sync()
    branch.run("wait", "--timeout", "0.5", code=ExitCode.BEHIND)
    said = branch.await_status(lambda said: said["lag_s"] > 0.5)
    assert said["acked_lsn"] < newest
    assert said["lag_bytes"] > 0
    if hung:
        branch.vault.resume()
    else:
        branch.vault.start()
    branch.run("wait")
    branch.check_replica()


def test_a_session_ends_though_replicator_and_vault_hang(branch: Branch) -> None:
    branch.start()
    branch.run("wait")
    os.kill(branch.replicator_pid(), signal.SIGSTOP)
    branch.volume.unmount()
    assert branch.status()["state"] == "down"


def test_a_wrong_token_is_refused_and_a_right_one_goes_on(branch: Branch) -> None:
    right = branch.token_file.read_text()
    branch.start()
    branch.run("wait")
    branch.token_file.write_text(right.strip()[:-4] + "AAAA\n")
    said = branch.await_status(lambda said: said["state"] == "refused")
    assert said["hint"]
    (branch.volume.tree / "file").write_text("new")
    branch.run("wait", code=ExitCode.PERMISSION)
    assert any("refused" in alarm for alarm in branch.volume.call("status")["alarms"])
    branch.start(code=ExitCode.PERMISSION)
    branch.token_file.write_text(right)
    branch.await_status(lambda said: said["state"] == "idle")
    branch.run("wait")
    branch.check_replica()


def test_the_token_can_be_changed_while_it_replicates(branch: Branch) -> None:
    branch.start()
    branch.run("wait")
    branch.token_file.write_text(branch.vault.rotate("branch") + "\n")
    (branch.volume.tree / "file").write_text("new")
    branch.run("wait")
    branch.check_replica()


def test_a_token_file_for_everybody_is_refused(branch: Branch) -> None:
    branch.token_file.chmod(0o644)
    assert "chmod 600" in branch.start(code=ExitCode.USAGE)
    assert branch.volume.call("status")["replication"] is None


def test_an_unknown_certificate_is_refused(branch: Branch) -> None:
    said = branch.run(
        *("start", "--to", branch.vault.url, "--token-file", str(branch.token_file)),
        code=ExitCode.PERMISSION,
    )
    assert "--ca" in said


def test_stopped_is_stopped_and_started_goes_on(branch: Branch) -> None:
    branch.start()
    branch.run("wait")
    branch.run("stop")
    branch.await_status(lambda said: said["state"] == "stopped")
    (branch.volume.tree / "file").write_text("new")
    newest = branch.volume.sync()
    assert branch.status()["acked_lsn"] < newest
    branch.run("wait", code=ExitCode.FAILURE)
    branch.start()
    branch.run("wait")
    branch.volume.unmount()
    branch.check_replica()


def test_forgotten_is_as_if_never_replicated(branch: Branch) -> None:
    branch.start()
    branch.run("wait")
    branch.run("stop", "--forget")
    branch.run("status", code=ExitCode.FAILURE)
    assert branch.volume.call("status")["replication"] is None
    assert read_holds(branch.volume.store.root) == {}


def test_an_unmounted_volume_is_replicated_by_hand(branch: Branch) -> None:
    branch.write("file", 200_000)
    branch.volume.unmount()
    branch.start()
    branch.run("wait", code=ExitCode.UNREACHABLE)
    branch.run("run")
    branch.run("wait")
    same_history(branch.volume.store, branch.vault.replica(branch.volume.store.config.uuid))


def test_a_replica_begins_by_disk_and_goes_on_over_the_line(branch: Branch, tmp_path: Path) -> None:
    branch.write("first", 3_000_000)
    branch.volume.sync()
    branch.vault.close()
    parcels = [tmp_path / "one", tmp_path / "two"]
    held = tmp_path / "position"
    branch.run("export", "--to", str(parcels[0]))
    branch.take_in(parcels[0], held)
    branch.write("second", 100_000, 1)
    branch.volume.sync()
    branch.run("export", "--to", str(parcels[1]), "--since-position", str(held))
    assert parcels[1].stat().st_size < parcels[0].stat().st_size / 5
    branch.take_in(parcels[1], held)
    branch.take_in(parcels[0], held)
    branch.vault.start()
    with Wire(branch.vault.port) as wire:
        branch.write("third", 10_000, 2)
        branch.start(wire.url)
        branch.run("wait")
        assert wire.up_bytes < 200_000
    branch.volume.unmount()
    branch.check_replica()


def test_the_volume_status_shows_replication(branch: Branch) -> None:
    branch.start()
    branch.run("wait")
    status = branch.volume.call("status")
    assert status["replication"]["state"] in ("idle", "sending")
    assert status["pids"]["replicator"]
    assert status["holds"].keys() <= {"replica"}
    assert status["alarms"] == []
