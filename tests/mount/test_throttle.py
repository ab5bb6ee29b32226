"""`cdpfs throttle` on a real volume and a real vault: what is set holds, mounted or not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

WORK_BYTES = 100_000
LOOK_S = 0.05


class Site(ProtectedTree):
    """A protected tree that replicates to a vault in another process, over loopback."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        root = str(top / "vault")
        self.run("vault", "init", "--root", root)
        token = self.json("vault", "add-site", "branch", "--root", root)["token"]
        self.token_file = top / "token"
        self.token_file.touch(0o600)
        self.token_file.write_text(token)
        with (top / "vault.log").open("ab") as log:
            self.vault = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "console", "vault", "serve", "--root", root),
                    *("--listen", "127.0.0.1:0", "--insecure-http"),
                ],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.vault.stdout is not None
        self.url = self.vault.stdout.readline().split()[-1]

    def replicate(self) -> None:
        self.run("protect", str(self.tree), *RING)
        self.run(
            *("replicate", "start", str(self.tree), "--to", self.url),
            *("--token-file", str(self.token_file)),
        )
        self.run("replicate", "wait", str(self.tree))

    def throttle(self, *words: str) -> Any:
        return self.json("throttle", *words)

    def work(self, name: str) -> None:
        (self.tree / name).write_bytes(os.urandom(WORK_BYTES))

    def until(self, key: str, value: object) -> dict[str, Any]:
        """Ask until the replicator says so; how replication is then."""
        while True:
            said: dict[str, Any] = self.json("replicate", "status", str(self.tree))
            if said[key] == value:
                return said
            time.sleep(LOOK_S)

    def end(self) -> None:
        super().end()
        self.vault.terminate()
        self.vault.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    it = Site(tmp_path)
    try:
        yield it
    finally:
        it.end()


def test_a_pause_holds_everything_back_and_a_rate_lets_it_go(site: Site) -> None:
    site.replicate()
    where = str(site.tree)
    paused = site.throttle("pause", where)
    assert (paused["limit_bps"], paused["limit"], paused["reason"]) == (0, "pause", "set by hand")
    before = site.until("limit_bps", 0)
    site.work("held back")
    said = site.until("state", "paused")
    assert said["acked_lsn"] == before["acked_lsn"]
    shown = site.run("throttle", where).stdout.decode()
    assert "pause  (set by hand)" in shown
    assert "never, while it is paused" in shown
    begun = time.monotonic()
    site.throttle("1M", where)
    site.run("replicate", "wait", where)
    # A body of random bytes does not get smaller on its way.
    assert time.monotonic() - begun >= WORK_BYTES * 8 / 1_000_000 / 1.05
    assert site.throttle("auto", where)["limit_bps"] is None
    site.until("limit_bps", None)


def test_a_limit_for_a_while_says_until_when_and_outlasts_the_mount(site: Site) -> None:
    site.replicate()
    where = str(site.tree)
    site.run("umount", where)
    said = site.throttle("56k", where, "--for", "1h30m")
    assert said["limit_bps"] == 56_000
    assert 5390e9 < said["until_ns"] - time.time_ns() <= 5400e9
    site.run("mount", where)
    assert site.until("limit_bps", 56_000)["limit_reason"] == "set by hand"


def test_the_calendar_is_edited_by_number_and_holds(site: Site) -> None:
    site.replicate()
    where = str(site.tree)
    site.run("throttle", "schedule", "add", "2M", where)
    site.run("throttle", "schedule", "add", "pause", where, "--hours", "0-24", "--at", "1")
    assert [rule["rate"] for rule in site.json("throttle", "schedule", "list", where)] == [
        "pause",
        "2M",
    ]
    site.until("limit_bps", 0)
    shown = site.run("throttle", "schedule", "remove", "1", where).stdout.decode()
    assert "2M" in shown
    said = site.until("limit_bps", 2_000_000)
    assert said["limit_reason"] == "calendar: 2M always"
    site.run("throttle", "schedule", "remove", "5", where, code=ExitCode.USAGE)
    site.run("throttle", "schedule", "add", "2M", where, "--days", "xx", code=ExitCode.USAGE)


def test_the_hosts_limit_holds_beside_the_volumes_own(site: Site) -> None:
    site.replicate()
    name = site.json("status", str(site.tree))["volume"]
    host = site.throttle("300k", "--host")
    assert [volume["volume"] for volume in host["volumes"]] == [name]
    assert site.until("limit_bps", 300_000)["limit_reason"].startswith("limit of the host")
    assert site.throttle("--volume", name)["limit_bps"] == 300_000
    assert site.throttle("100k", "--volume", name)["limit_bps"] == 100_000
    site.until("limit_bps", 100_000)
    site.run("throttle", "auto", "--host")
    site.run("throttle", "auto", "--volume", name)
    site.until("limit_bps", None)
    site.run("throttle", "weight", "2.5", str(site.tree))
    assert site.throttle(str(site.tree))["weight"] == 2.5


def test_what_makes_no_sense_is_refused_and_changes_nothing(site: Site) -> None:
    site.replicate()
    where = str(site.tree)
    site.run("throttle", "quick", where, code=ExitCode.USAGE)
    site.run("throttle", "56k", where, "--for", "ever", code=ExitCode.USAGE)
    site.run("throttle", "auto", where, "--for", "1h", code=ExitCode.USAGE)
    site.run("throttle", "56k", "--volume", "nobody", code=ExitCode.NO_VOLUME)
    assert site.throttle(where)["limit_bps"] is None


def test_a_volume_that_is_not_replicated_has_no_limit_to_set(site: Site) -> None:
    site.run("protect", str(site.tree), *RING)
    site.run("throttle", "56k", str(site.tree), code=ExitCode.FAILURE)
