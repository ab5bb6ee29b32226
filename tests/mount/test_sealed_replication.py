"""A sealed volume end to end, by commands: protected, replicated, looked at, recovered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

SECRET = b"the recipe that nobody at the vault may read"


class Site(ProtectedTree):
    """A protected tree, a vault in another process, and certificates for both."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.root = top / "vault"
        authority, clients = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(str(top / "ca.pem"))
        clients.cert_pem.write_to_path(str(top / "clients.pem"))
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_and_cert_chain_pem.write_to_path(str(top / "server.pem"))
        client = clients.issue_cert("branch")
        client.private_key_and_cert_chain_pem.write_to_path(str(top / "branch.pem"))
        (top / "branch.pem").chmod(0o600)
        self.run("vault", "init", "--root", str(self.root))
        self.run("vault", "add-site", "branch", "--by-certificate", "--root", str(self.root))
        self.vault: subprocess.Popen[str] | None = None
        self.url = ""

    def serve(self) -> None:
        command = [
            *(sys.executable, "-P", "-m", "console", "vault", "serve"),
            *("--root", str(self.root), "--listen", "localhost:0"),
            *("--tls-cert", str(self.top / "server.pem")),
            *("--tls-key", str(self.top / "server.pem")),
            *("--client-ca", str(self.top / "clients.pem")),
        ]
        with (self.top / "vault.log").open("a") as log:
            self.vault = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.vault.stdout is not None
        self.url = self.vault.stdout.readline().split()[-1]

    def end_vault(self) -> None:
        if self.vault is not None:
            self.vault.send_signal(signal.SIGTERM)
            self.vault.communicate()
            self.vault = None

    @property
    def credentials(self) -> tuple[str, ...]:
        return ("--ca", str(self.top / "ca.pem"), "--client-cert", str(self.top / "branch.pem"))

    def start(self, *options: str, code: ExitCode = ExitCode.OK) -> str:
        done = self.run(
            *("replicate", "start", str(self.tree), "--to", self.url),
            *(*self.credentials, *options),
            code=code,
        )
        return (done.stdout + done.stderr).decode()

    def end(self) -> None:
        self.end_vault()
        super().end()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.run("protect", str(made.tree), *RING)
        made.serve()
        yield made
    finally:
        made.end()


def test_a_sealed_volume_lives_at_a_vault_that_cannot_read_it(site: Site, tmp_path: Path) -> None:
    key, backup = str(tmp_path / "seal.key"), str(tmp_path / "backup.txt")
    site.run("replicate", "key", "create", key, "--backup", backup)
    refused = site.start("--seal", key, code=ExitCode.USAGE)
    assert "can never read again what it sealed" in refused
    site.start("--seal", key, "--key-backup", backup)
    (site.tree / "recipe").write_bytes(SECRET)
    site.run("replicate", "wait", str(site.tree))
    moment = site.now()
    (site.tree / "recipe").write_bytes(b"spoilt")
    site.run("replicate", "key", "rotate", key)
    (site.tree / "later").write_bytes(b"sealed with the new key")
    site.run("replicate", "wait", str(site.tree))

    [row] = site.json("vault", "list", "--root", str(site.root))["volumes"]
    assert row["sealed"] and row["health"] == "ok" and row["next_lsn"] > 1
    assert not _found(site.root, SECRET) and not _found(site.root, b"recipe")
    site.run("vault", "verify", "--root", str(site.root))
    name = row["name"]
    site.run(
        *("vault", "mount", "--root", str(site.root), name, str(tmp_path / "mnt")),
        code=ExitCode.PERMISSION,
    )

    drill = ("--from", site.url, *site.credentials, "--volume", name)
    tried = site.run("replicate", "key", "check", key, *drill).stdout.decode()
    assert tried.count("opens  LSN") == 2
    site.run("replicate", "key", "create", str(tmp_path / "other.key"))
    site.run(
        *("replicate", "key", "check", str(tmp_path / "other.key"), *drill),
        code=ExitCode.PERMISSION,
    )
    assert "sealed" in site.run("replicate", "status", str(site.tree)).stdout.decode()
    assert b"newest key" in site.run("doctor", str(site.tree)).stdout

    mirror = tmp_path / "mirror"
    command = (
        *("replicate", "mirror", name, "--from", site.url, *site.credentials),
        *("--root", str(mirror), "--key-file", key),
    )
    site.run(*command)
    for at, expected in ((moment, SECRET), (f"@lsn:{row['next_lsn'] - 1}", b"spoilt")):
        out = tmp_path / at.replace(":", "-")
        restore = ("restore", "recipe", "--at", at, "--exact", "--to", str(out), "--volume", name)
        for sealed in (("--root", str(site.root)), ("--from", site.url, *site.credentials)):
            refused = site.run(*restore, *sealed, code=ExitCode.PERMISSION).stderr.decode()
            assert "is sealed" in refused and "cdpfs replicate recover, or mirror" in refused
        site.run(*restore, "--root", str(mirror))
        assert out.read_bytes() == expected
    (site.tree / "more").write_bytes(b"more")
    site.run("replicate", "wait", str(site.tree))
    site.run(*command)
    site.run("vault", "verify", "--root", str(mirror))
    status = json.loads(site.run("status", str(site.tree), "--json").stdout)
    assert status["replication"]["state"] in ("idle", "sending")


def _found(folder: Path, what: bytes) -> bool:
    return any(what in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_sealed_volume_comes_back_on_another_machine_and_goes_on(
    site: Site, tmp_path: Path
) -> None:
    key, backup = str(tmp_path / "seal.key"), str(tmp_path / "backup.txt")
    site.run("replicate", "key", "create", key, "--backup", backup)
    site.start("--seal", key, "--key-backup", backup)
    (site.tree / "recipe").write_bytes(SECRET)
    site.run("replicate", "wait", str(site.tree))
    site.run("umount", str(site.tree))
    name = site.json("vault", "list", "--root", str(site.root))["volumes"][0]["name"]

    (tmp_path / "other").mkdir()
    other = ProtectedTree(tmp_path / "other")
    place, again = str(other.tree), str(tmp_path / "typed-in.key")
    command = ("replicate", "recover", place, "--volume", name)
    online = ("--from", site.url, *site.credentials)
    try:
        said = other.run(*command, *online, code=ExitCode.PERMISSION).stderr.decode()
        assert "is sealed" in said and "--key-file" in said
        other.run(*command, "--root", str(site.root), code=ExitCode.PERMISSION)
        other.run("replicate", "key", "import-backup", backup, again)
        other.run(*command, *online, "--key-file", again, *RING)
        other.run("mount", place)
        assert (other.tree / "recipe").read_bytes() == SECRET
        (other.tree / "more").write_bytes(b"more")
        other.run(
            *("replicate", "start", place, "--to", site.url, *site.credentials),
            *("--seal", again, "--key-backup", backup),
        )
        other.run("replicate", "wait", place)
        site.run("vault", "verify", "--root", str(site.root))
    finally:
        other.end()


def test_a_volume_is_sealed_from_its_beginning_or_not_at_all(site: Site, tmp_path: Path) -> None:
    key = str(tmp_path / "seal.key")
    site.run("replicate", "key", "create", key)
    site.start()
    (site.tree / "file").write_bytes(b"open")
    site.run("replicate", "wait", str(site.tree))
    said = site.start("--seal", key, "--accept-key-loss", code=ExitCode.PERMISSION)
    assert "between sealed and open" in said
    (site.tree / "file").write_bytes(b"still open")
    site.run("replicate", "wait", str(site.tree))


def test_a_lost_key_file_stops_the_sender_and_its_backup_lets_it_go_on(
    site: Site, tmp_path: Path
) -> None:
    key, backup = tmp_path / "seal.key", str(tmp_path / "backup.txt")
    site.run("replicate", "key", "create", str(key), "--backup", backup)
    site.start("--seal", str(key), "--key-backup", backup)
    (site.tree / "one").write_bytes(b"1")
    site.run("replicate", "wait", str(site.tree))
    key.unlink()
    (site.tree / "two").write_bytes(b"2")
    while True:
        status = site.json("replicate", "status", str(site.tree))
        if status["state"] == "refused":
            break
    assert "seal.key" in status["error"] and "import-backup" in status["hint"]
    site.run("replicate", "key", "import-backup", backup, str(key))
    site.run("replicate", "wait", str(site.tree))


def test_secrets_are_in_no_log_status_or_title(site: Site, tmp_path: Path) -> None:
    key, backup = tmp_path / "seal.key", tmp_path / "backup.txt"
    site.run("replicate", "key", "create", str(key), "--backup", str(backup))
    site.start("--seal", str(key), "--key-backup", str(backup))
    (site.tree / "file").write_bytes(b"content")
    site.run("replicate", "wait", str(site.tree))
    secrets = [line.split('"')[1] for line in key.read_text().splitlines() if '= "' in line]
    store = Path(site.json("status", str(site.tree))["store"])
    for path in [*store.rglob("*"), tmp_path / "vault.log"]:
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret.encode() in data for secret in secrets if len(secret) == 44), path
    for name in ("replica.toml", "replica.status", "log/replicator.log", "holds/replica"):
        assert (store / name).stat().st_mode & 0o077 == 0, name
    pids = site.json("status", str(site.tree))["pids"]
    for pid in pids.values():
        title = (
            Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        )
        assert not any(secret.encode() in title for secret in secrets if len(secret) == 44)
