"""A volume's life with a real tape library, by the commands that a person has.

Inside the test machine. A mounted tree is spooled to two pools, whose fulls don't fit on one
cartridge; more is changed and spooled; plain `tar` reads a cartridge; the off-site copy is carried
to the import/export slots; then everything but the cartridges is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from console.control import Control
from console.exit_codes import ExitCode
from store.volume import Store
from tape.mtx_changer import MtxChanger
from tests.commandline import RING, run_cdpfs
from tests.hardware.own_library import SHIPPED_SCRIPT

BLOCK_BYTES = 128 << 10
ARCHIVE_BYTES = 768 << 10
"""Far below what `tape attach` sets, so that small cartridges will do."""

LOOK_S = 0.05


class Failed(Exception):
    """Something was not as it should be."""


class Life:
    """Of one volume. `place` is a disk."""

    def __init__(
        self, place: Path, changer: str, drives: tuple[str, ...], cartridge_bytes: int
    ) -> None:
        self.tree = place / "tree"
        self.store = place / "store"
        self.home = place / "library"
        self.changer = MtxChanger(str(SHIPPED_SCRIPT), changer, drives)
        self.drives = drives
        self.cartridge_bytes = cartridge_bytes
        self.environment = dict(os.environ, CDPFS_HOME=str(place / "home"))
        self.dice = random.Random(5)
        self.at_the_end: dict[str, str] = {}

    def run(self, *words: str, code: ExitCode = ExitCode.OK) -> str:
        """What a command of cdpfs prints."""
        print("$ cdpfs", *words, flush=True)
        done = run_cdpfs(*words, code=code, environment=self.environment)
        text = done.stdout.decode()
        print(text, done.stderr.decode(), flush=True)
        return text

    def json(self, *words: str) -> Any:
        """What it prints for scripts."""
        return json.loads(self.run(*words, "--json"))

    # --- the steps

    def protect(self) -> None:
        """A tree with all kinds of files; more than fits on a cartridge."""
        self.tree.mkdir()
        folder = self.tree / "folder"
        folder.mkdir(mode=0o750)
        (folder / "öäü").write_text("names of all kinds")
        (folder / "link").symlink_to("öäü")
        os.link(folder / "öäü", self.tree / "second name")
        os.setxattr(folder / "öäü", "user.note", b"kept")
        with (self.tree / "sparse").open("wb") as file:
            file.truncate(100 << 20)
            file.seek(50 << 20)
            file.write(b"in the middle")
        self.run("protect", str(self.tree), "--store", str(self.store), *RING)
        size = self.cartridge_bytes // 8
        for number in range(8):
            (self.tree / f"large{number}").write_bytes(self.dice.randbytes(size))
            self._wait_for_indexer()

    def _wait_for_indexer(self) -> None:
        """A batch that holds more than one of the large files does not fit into an archive."""
        with Control(Store.open(self.store)) as control:
            status: dict[str, Any] = control.call("status")
            while status["indexed_lsn"] < status["lsn"]:
                time.sleep(LOOK_S)
                status = control.call("status")

    def create_library(self) -> None:
        """A home for it; the cartridges stay as they are."""
        words = [word for drive in self.drives for word in ("--drive", drive)]
        words += ["--changer", self.changer.name, "--block-size", str(BLOCK_BYTES)]
        self.run("tape", "create-library", str(self.home), *words)

    def attach(self) -> None:
        """Two copies."""
        words = ("--library", str(self.home), "--copies", "onsite,offsite", "--archive-size", "16M")
        self.run("tape", "attach", str(self.tree), *words)
        path = self.store / "tape.toml"
        lines = path.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("archive_bytes")]
        path.write_text("\n".join([f"archive_bytes = {ARCHIVE_BYTES}", *kept, ""]))

    def spool(self) -> None:
        """Everything so far."""
        self.run("tape", "spool", str(self.tree))

    def work(self) -> None:
        """Go on."""
        (self.tree / "new").write_bytes(self.dice.randbytes(100_000))
        (self.tree / "large0").unlink()
        (self.tree / "folder" / "öäü").write_text("changed")
        os.sync()

    def tar_reads(self) -> None:
        """The on-site copy's first archive, as the README on the cartridge says."""
        slot, barcode = self._cartridge_of("onsite")
        self.changer.load(slot, 0)
        node, out = self.drives[0], self.home.parent / "tar"
        out.mkdir()
        tar = ("tar", "-b", str(BLOCK_BYTES // 512))
        subprocess.run(["mt", "-f", node, "setblk", "0"], check=True)
        subprocess.run(["mt", "-f", node, "asf", "0"], check=True)
        readme = subprocess.run([*tar, "-xOf", node, "README"], check=True, stdout=subprocess.PIPE)
        subprocess.run(["mt", "-f", node, "asf", "1"], check=True)
        options = ("--numeric-owner", "-p", "--xattrs", "--xattrs-include=*")
        subprocess.run([*tar, *options, "-xf", node], cwd=out, check=True)
        self.changer.unload(0, slot)
        found = next(out.rglob("öäü"), None)
        if found is None or os.getxattr(found, "user.note") != b"kept":
            raise Failed(f"tar did not bring back a file from {barcode}: {list(out.rglob('*'))}")
        if barcode.encode() not in readme.stdout:
            raise Failed(f"the README does not name {barcode}: {readme.stdout!r}")

    def send_out(self) -> None:
        """The off-site copy to the import/export slots. Unmounted, so that no new one is begun."""
        self.at_the_end = digests(self.tree)
        self.run("umount", str(self.tree))
        self.run("tape", "export", "--dir", str(self.tree), "--pool", "offsite", "--place", "box 3")
        if not any(door.full for door in self.changer.inventory().doors):
            raise Failed("no cartridge is in an import/export slot")

    def lose_everything(self) -> None:
        """But what is in the library."""
        subprocess.run(["rm", "-r", self.store, self.home], check=True)

    def scan(self) -> None:
        """The books, from the cartridges alone."""
        self.create_library()
        self.run("tape", "scan", "--library", str(self.home))

    def scan_to_a_store(self) -> None:
        """And the history, too."""
        store = str(self.home.parent / "again")
        self.run("tape", "scan", "--library", str(self.home), "--store", store)

    def come_back(self) -> None:
        """The tree as it was."""
        restored = self.home.parent / "restored"
        words = ("restore", str(self.tree), "--to", str(restored))
        self.run("tape", *words, "--library", str(self.home))
        found = digests(restored)
        if found != self.at_the_end:
            raise Failed(f"restored {found}, and not {self.at_the_end}")

    def _cartridge_of(self, pool: str) -> tuple[int, str]:
        found = self.json("tape", "status", "--library", str(self.home))
        barcodes = [each["barcode"] for each in found["cartridges"] if each["pool"] == pool]
        slots = {slot.barcode: slot.number for slot in self.changer.inventory().slots}
        for barcode in sorted(barcodes):
            if barcode in slots:
                return slots[barcode], barcode
        raise Failed(f"no cartridge of {pool} is in a slot: {barcodes}")


def digests(tree: Path) -> dict[str, str]:
    """What is in a tree."""
    found = {}
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "a folder"
        else:
            found[name] = hashlib.blake2b(path.read_bytes()).hexdigest()
    return found


def live(life: Life, short: bool) -> None:
    """Step by step. Failed, or AssertionError of a command."""
    more: tuple[Callable[[], None], ...] = () if short else (life.scan_to_a_store,)
    steps: tuple[Callable[[], None], ...] = (
        life.protect,
        life.create_library,
        life.attach,
        life.spool,
        life.work,
        life.spool,
        life.tar_reads,
        life.send_out,
        life.lose_everything,
        life.scan,
        *more,
        life.come_back,
    )
    for step in steps:
        start = time.monotonic()
        step()
        print(f"== {step.__name__}: {time.monotonic() - start:.1f} s", flush=True)
