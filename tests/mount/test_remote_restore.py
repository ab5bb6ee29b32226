"""Reading and restoring from a vault over a line: whole, in spite of cuts, crashes and damage."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from console.exit_codes import ExitCode
from tests.commandline import ROOT, run_cdpfs
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.mount.test_vault_mount import fill
from tests.replica import Replica
from tests.vault_service import Line, VaultService
from tests.volume import Volume

BIG_BYTES = 60 << 20


class Site:
    """A volume with some history, a vault that has it, and a reader's token."""

    def __init__(self, volume: Volume, base: Path, tls: bool) -> None:
        self.volume = volume
        fill(volume.tree)
        small = volume.tree / "small"
        small.mkdir()
        for number in range(300):
            (small / f"{number:03}").write_bytes(b"%d " % number * number)
        with (volume.tree / "big").open("wb") as file:
            dice = random.Random(1)
            for _ in range(BIG_BYTES >> 20):
                file.write(dice.randbytes(1 << 20))
        volume.call("mark", name="filled")
        (volume.tree / "d" / "f").write_bytes(b"later")
        os.unlink(volume.tree / "second name")
        time.sleep(volume.store.config.quiet_s + 0.2)
        volume.call("mark", name="at rest")
        volume.sync()
        replica = Replica(base, volume.store)
        replica.ship(at_once=16)
        replica.close()
        self.service = VaultService(replica.vault, base, tls)
        self.token = self.service.add("reader", "headquarters", base)
        self.service.start()
        self.then = volume.tree / ".snapshots" / "@mark:filled"

    def options(self, port: int | None = None) -> tuple[str, ...]:
        """How a command names the vault, over a line at another port if need be."""
        url = self.service.url.replace(str(self.service.port), str(port or self.service.port))
        ca = ("--ca", str(self.service.ca)) if self.service.ca.exists() else ()
        return ("--from", url, "--token-file", str(self.token), *ca)


@pytest.fixture
def site(volume: Volume, tmp_path: Path) -> Iterator[Site]:
    made = Site(volume, tmp_path, tls=True)
    yield made
    made.service.stop()
    assert "Traceback" not in made.service.log.read_text(), made.service.log.read_text()


@pytest.fixture
def plain_site(volume: Volume, tmp_path: Path) -> Iterator[Site]:
    made = Site(volume, tmp_path, tls=False)
    yield made
    made.service.stop()


def test_a_tree_comes_back_whole_over_tls(site: Site, tmp_path: Path) -> None:
    back = tmp_path / "back"
    said = run_cdpfs("restore", ".", "--at", "@mark:filled", "--to", str(back), *site.options())
    assert b"restored" in said.stdout
    assert_equal(fingerprint(back), fingerprint(site.then))
    assert sorted(os.listdir(back)) == sorted(os.listdir(site.then))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".cdpfs")]
    one = tmp_path / "one"
    path = str(site.volume.tree / "d" / "sparse")  # as it is called at the site
    run_cdpfs("restore", path, "--at", "@mark:filled", "--to", str(one), *site.options())
    assert one.read_bytes() == (site.then / "d" / "sparse").read_bytes()
    assert one.stat().st_blocks * 512 < 1 << 20


def test_the_commands_say_over_a_line_what_they_say_here(site: Site) -> None:
    store = ("--store", str(site.volume.store.root))
    for command in (
        ("history", "d/f", "--json"),
        ("points", ".", "--grade", "mark", "--json"),
        ("points", "d/f", "--grade", "sync"),
        ("deleted", ".", "--json"),
        ("deleted", "."),
        ("cat", "d/f", "--at", "@mark:filled"),
        ("ls", "d", "--at", "@mark:filled", "--json"),
        ("ls", ".", "--at", "@mark:filled"),
    ):
        far = run_cdpfs(*command, *site.options(), cwd=site.volume.tree).stdout
        near = run_cdpfs(*command, *store, cwd=site.volume.tree).stdout
        assert far == near, command
    vault = ("--vault", *site.options()[1:])
    diff = ("diff", ".", "--from", "@mark:filled", "--to", "@now!exact", "--json")
    far = json.loads(run_cdpfs(*diff, *vault).stdout)
    near = json.loads(run_cdpfs(*diff, *store, cwd=site.volume.tree).stdout)
    assert far == near


def test_what_can_not_be_done_ends_with_the_code_for_it(site: Site, tmp_path: Path) -> None:
    to = ("--to", str(tmp_path / "x"))
    for arguments, code in (
        (("restore", "nowhere", "--at", "@mark:filled", *to), ExitCode.NO_PATH),
        (("restore", "d", "--at", "@mark:nothing", *to), ExitCode.NO_MOMENT),
        (("restore", "d", "--at", "@lsn:9999999", *to), ExitCode.NO_MOMENT),
        (("restore", "d", "--at", "@mark:filled"), ExitCode.USAGE),
        (("cat", "d", "--at", "@mark:filled"), ExitCode.USAGE),
        (("cat", "/etc/passwd", "--at", "@mark:filled"), ExitCode.USAGE),
        (("history", "d", "--volume", "other"), ExitCode.NO_VOLUME),
        (("history", "d", "--line", "other"), ExitCode.NO_VOLUME),
        (("history", "d", "--store", "/nowhere"), ExitCode.USAGE),
    ):
        run_cdpfs(*arguments, *site.options(), code=code)
    bad = tmp_path / "bad.token"
    bad.write_text("cdpfs_headquarters_" + "A" * 43)
    bad.chmod(0o600)
    wrong = ("--token-file", str(bad))
    run_cdpfs("history", "d", *site.options(), *wrong, code=ExitCode.PERMISSION)
    no_ca = site.options()[:-2]
    run_cdpfs("history", "d", *no_ca, code=ExitCode.PERMISSION)
    site.service.stop()
    run_cdpfs("history", "d", *site.options(), code=ExitCode.UNREACHABLE)


def restoring(site: Site, back: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "console", "restore", ".", "--at", "@mark:filled"]
    return subprocess.Popen(
        [*command, "--to", str(back), *options],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(line: Line, size_bytes: int, process: subprocess.Popen[bytes]) -> None:
    """Return when so much has come over the line."""
    while line.received < size_bytes and process.poll() is None:
        time.sleep(0.002)


def test_a_restore_that_was_killed_goes_on_and_fetches_little_again(
    site: Site, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    line = Line(site.service.port)
    try:
        paced = ("--limit-rate", "100M")
        first = restoring(site, back, *site.options(line.port), *paced)
        wait_for(line, 45 << 20, first)
        first.kill()
        first.communicate()
        came = line.received
        assert came < BIG_BYTES, "it was too quick to be cut"
        line.received = 0
        again = restoring(site, back, *site.options(line.port))
        said, notes = again.communicate()
        assert again.returncode == 0, notes
        assert b"going on" in notes
        assert_equal(fingerprint(back), fingerprint(site.then))
        # What was under way when it was cut comes twice.
        assert came + line.received < BIG_BYTES + (30 << 20)
    finally:
        line.close()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".cdpfs")]
    assert b"restored" in said


def test_cut_connections_and_a_crash_of_the_vault_are_lived_through(
    site: Site, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    line = Line(site.service.port)
    try:
        process = restoring(site, back, *site.options(line.port), "--limit-rate", "300M")
        for size in (5, 15, 25):
            wait_for(line, size << 20, process)
            line.cut()
        wait_for(line, 35 << 20, process)
        site.service.stop(kill=True)
        line.cut()
        site.service.start()
        _said, notes = process.communicate()
        assert process.returncode == 0, notes
    finally:
        line.close()
    assert_equal(fingerprint(back), fingerprint(site.then))


def test_damaged_answers_are_noticed_and_fetched_again(plain_site: Site, tmp_path: Path) -> None:
    back = tmp_path / "back"
    dice = random.Random(3)
    flips = 0

    def spoil(data: bytes) -> bytes:
        nonlocal flips
        # Not in a head: one that tells of more than comes is waited for, for two minutes
        # (tests/unit/test_remote.py).
        start = data.find(b"\r\n\r\n") + 4 if data.startswith(b"HTTP/") else 0
        if dice.random() > 0.01 or start == len(data):
            return data
        flips += 1
        at = dice.randrange(start, len(data))
        return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]

    line = Line(plain_site.service.port, spoil)
    try:
        process = restoring(plain_site, back, *plain_site.options(line.port))
        _said, notes = process.communicate()
        assert process.returncode == 0, notes
    finally:
        line.close()
    assert flips > 3
    assert_equal(fingerprint(back), fingerprint(plain_site.then))


def test_what_is_in_the_way_is_not_touched(site: Site, tmp_path: Path) -> None:
    back = tmp_path / "back"
    (back / "d").mkdir(parents=True)
    (back / "d" / "f").write_bytes(b"mine")
    restore = ("restore", ".", "--at", "@mark:filled", "--to", str(back), *site.options())
    run_cdpfs(*restore, code=ExitCode.FAILURE)
    assert (back / "d" / "f").read_bytes() == b"mine"
    assert os.listdir(back) == ["d"]
    run_cdpfs(*restore, "--overwrite")
    assert_equal(fingerprint(back), fingerprint(site.then))


def test_a_database_comes_with_its_companions(volume: Volume, tmp_path: Path) -> None:
    with closing(sqlite3.connect(volume.tree / "app.db", isolation_level=None)) as database:
        database.execute("pragma journal_mode = wal").fetchone()
        database.execute("create table t (x)")
        database.execute("insert into t values (42)")
        volume.call("mark", name="kept")
        volume.sync()
        replica = Replica(tmp_path, volume.store)
        replica.ship()
        replica.close()
    service = VaultService(replica.vault, tmp_path)
    token = service.add("reader", "headquarters", tmp_path)
    service.start()
    try:
        options = ("--from", service.url, "--token-file", str(token), "--ca", str(service.ca))
        copy = tmp_path / "out" / "copy.db"
        restore = ("restore", "app.db", "--at", "@mark:kept", "--to", str(copy), *options)
        run_cdpfs(*restore, code=ExitCode.COMPANIONS)
        run_cdpfs(*restore, "--with-companions")
        with closing(sqlite3.connect(copy)) as database:
            assert database.execute("select x from t").fetchall() == [(42,)]
    finally:
        service.stop()
