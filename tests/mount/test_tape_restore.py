"""The whole way: onto cartridges, everything else gone, and back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.exit_codes import ExitCode
from tape.library import open_library
from tests.commandline import RING, ProtectedTree
from tests.mount.fingerprint import Fingerprint, fingerprint


class Office(ProtectedTree):
    """A protected directory with a library, worked with by commands alone."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.library = str(top / "library")
        self.run("tape", "create-library", self.library, "--slots", "8", "--capacity", "256M")
        self.work(1)
        self.run("protect", str(self.tree), *RING)
        self.run("tape", "attach", str(self.tree), "--library", self.library)

    def work(self, number: int) -> None:
        """Change the tree as people do."""
        folder = self.tree / f"folder {number}"
        (folder / "below").mkdir(parents=True)
        (folder / "small").write_text(f"words {number}\n" * 100)
        (folder / "large").write_bytes(os.urandom(3_000_000))
        (folder / "below" / "same").hardlink_to(folder / "small")
        (folder / "link").symlink_to("below/same")
        os.setxattr(folder / "small", "user.number", str(number).encode())
        os.truncate(folder / "large", 9_000_000)
        (self.tree / "always").write_text(f"version {number}\n")

    def lose_everything(self) -> None:
        """The machine is gone, and so are the books of the library."""
        self.run("umount", str(self.tree))
        shutil.rmtree(self.top / "home")
        shutil.rmtree(self.tree)
        shutil.rmtree(Path(self.library) / "catalogue")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.end()


def history(office: Office) -> dict[str, Fingerprint]:
    """Some moments, each on tape, and what the tree was then."""
    found = {}
    for number in (2, 3, 4):
        office.work(number)
        if number != 3:
            office.run("tape", "spool", str(office.tree))
        found[office.now()] = fingerprint(office.tree)
    office.run("tape", "spool", str(office.tree))
    return found


def below(found: Fingerprint, folder: bytes) -> Fingerprint:
    """The part of a fingerprint that a folder is."""
    start = folder + b"/"
    return {
        path.removeprefix(folder).removeprefix(b"/"): facts._replace(
            same_as=facts.same_as.removeprefix(folder).removeprefix(b"/")
        )
        for path, facts in found.items()
        if path == folder or path.startswith(start)
    }


def test_cartridges_alone_give_back_the_volume_with_its_history(office: Office) -> None:
    moments = history(office)
    office.lose_everything()
    store = str(office.top / "again")
    office.run("tape", "scan", "--library", office.library, "--store", store)
    for number, (moment, wanted) in enumerate(moments.items()):
        out = office.top / f"out {number}"
        office.run("restore", ".", "--store", store, "--at", moment, "--to", str(out))
        assert fingerprint(out) == wanted


def test_a_restore_needs_no_store(office: Office) -> None:
    moments = history(office)
    moment, wanted = list(moments.items())[-1]
    office.lose_everything()
    office.run("tape", "scan", "--library", office.library)
    out = office.top / "out"
    where = ("--library", office.library, "--to", str(out))
    office.run("tape", "restore", "folder 3", *where, "--at", moment)
    assert fingerprint(out) == below(wanted, b"folder 3")
    assert not [name for name in os.listdir(office.top) if name.startswith(".cdpfs-restore")]


def test_a_restore_says_what_has_to_be_brought_before_anything_moves(office: Office) -> None:
    history(office)
    office.run("umount", str(office.tree))
    state = office.json("tape", "status", str(office.tree))
    names = [each["name"] for each in state["cartridges"] if each["archives"]]
    office.run("tape", "export", *names, "--dir", str(office.tree))
    with open_library(Path(office.library), "a person") as library:
        assert library.virtual is not None
        for door in library.changer.inventory().doors:
            if door.full:
                library.virtual.take_out(door.number)
    out = office.top / "out"
    said = office.run(
        *("tape", "restore", ".", "--library", office.library, "--to", str(out)),
        code=ExitCode.NEEDS_CARTRIDGE,
    )
    assert names[0] in said.stderr.decode()
    assert not out.exists()


def test_a_file_comes_back_from_the_full_alone(office: Office) -> None:
    history(office)
    out = office.top / "out"
    where = ("--library", office.library, "--to", str(out), "--from-full")
    office.run("umount", str(office.tree))
    office.run("tape", "restore", office.path("folder 1/small"), *where)
    assert out.read_text() == "words 1\n" * 100
