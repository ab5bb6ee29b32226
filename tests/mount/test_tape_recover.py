"""A machine is lost with tree, store and books: cartridges bring the volume back, to go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.exit_codes import ExitCode
from store.relocation import read_relocation
from store.volume import Store
from tape.catalogue_file import read_catalogue
from tape.library import open_library
from tests.mount.fingerprint import Fingerprint, fingerprint
from tests.mount.test_tape_restore import Office, history


class Ruins(Office):
    """An office that is lost, and made anew in the directory `new`."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.new = top / "new"
        self.store = top / "new store"

    def command(self, *more: str) -> tuple[str, ...]:
        """The recovery."""
        where = ("--library", self.library, "--store", str(self.store))
        return ("tape", "recover", str(self.new), *where, *more)

    def mount(self) -> None:
        self.run("mount", str(self.new))
        self.tree = self.new

    def past(self, moment: str, out: str) -> Fingerprint:
        """The tree of a moment, restored."""
        target = self.top / out
        self.run("restore", str(self.new), "--at", moment, "--to", str(target))
        return fingerprint(target)


@pytest.fixture
def ruins(tmp_path: Path) -> Iterator[Ruins]:
    made = Ruins(tmp_path)
    yield made
    made.end()


def test_cartridges_alone_bring_a_volume_back_which_goes_on_with_its_history(ruins: Ruins) -> None:
    moments = history(ruins)
    last, newest = list(moments.items())[-1]
    ruins.lose_everything()
    done = ruins.json(*ruins.command())
    assert (done["ready"], done["missing_count"]) == (True, 0)
    assert done["base_lsn"] <= int(next(iter(moments)).removeprefix("@lsn:"))
    assert fingerprint(ruins.new) == newest
    ruins.mount()
    assert fingerprint(ruins.new) == newest
    for number, (moment, wanted) in enumerate(moments.items()):
        assert ruins.past(moment, f"out {number}") == wanted
    ruins.work(5)
    now = ruins.now()
    assert int(now.removeprefix("@lsn:")) > done["held_lsn"] >= int(last.removeprefix("@lsn:"))
    assert_new_set(ruins, done["uuid"])
    wanted = fingerprint(ruins.new)
    ruins.run("tape", "verify", "--dir", str(ruins.new))
    ruins.run("umount", str(ruins.new))
    found = ruins.json("verify", "--store", str(ruins.store))
    assert found["findings"] == []
    again = ruins.top / "from tape again"
    ruins.run(
        *("tape", "restore", ".", "--library", ruins.library, "--at", now, "--to", str(again))
    )
    assert fingerprint(again) == wanted


def assert_new_set(ruins: Ruins, uuid: str) -> None:
    """What is spooled from now on is in a set of its own."""
    before = set(read_catalogue(Path(ruins.library) / "catalogue").sets)
    ruins.run("tape", "attach", str(ruins.new), "--library", ruins.library)
    ruins.run("tape", "spool", str(ruins.new))
    sets = read_catalogue(Path(ruins.library) / "catalogue").sets
    [fresh] = [each for each in sets.values() if each.set_id not in before]
    assert fresh.volume_uuid == uuid
    assert fresh.whole
    assert all(sets[each].closed_ns for each in before)


def test_books_that_are_whole_are_not_read_anew_and_open_sets_end(ruins: Ruins) -> None:
    newest = list(history(ruins).values())[-1]
    ruins.run("umount", str(ruins.tree))
    shutil.rmtree(ruins.top / "home")
    shutil.rmtree(ruins.tree)
    said = ruins.run(*ruins.command())
    assert b"of slot" not in said.stderr
    assert f"cdpfs tape attach {ruins.new} --library".encode() in said.stdout
    ruins.mount()
    assert fingerprint(ruins.new) == newest
    assert_new_set(ruins, Store.open(ruins.store).config.uuid)


@pytest.mark.parametrize("stage", ["fetching", "restoring"])
def test_a_recovery_that_is_killed_is_gone_on_with_and_not_mounted(
    ruins: Ruins, stage: str
) -> None:
    newest = list(history(ruins).values())[-1]
    ruins.lose_everything()
    _kill_when(ruins, stage)
    if _stage(ruins.store) != "ready":  # it was over, perhaps, just before it was killed
        ruins.run("mount", "--store", str(ruins.store), code=ExitCode.BUSY)
    said = ruins.run(*ruins.command("--at", "@-1m"), code=ExitCode.BUSY)
    assert b"ask the same" in said.stderr
    ruins.run(*ruins.command())
    ruins.mount()
    assert fingerprint(ruins.new) == newest
    ruins.run("umount", str(ruins.new))
    said = ruins.run(*ruins.command(), code=ExitCode.BUSY)
    assert b"is a store of this volume already" in said.stderr


def _kill_when(ruins: Ruins, stage: str) -> None:
    """The recovery is killed as soon as its store says that it is so far."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "console", *ruins.command()],
        env=ruins.environment,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and _stage(ruins.store) != stage:
            pass
        process.send_signal(signal.SIGKILL)


def _stage(root: Path) -> str:
    try:
        found: dict[str, Any] = json.loads((root / "relocation.json").read_bytes())
    except FileNotFoundError:
        return ""
    return str(found["stage"])


def test_a_set_in_another_place_is_asked_for_before_anything_is_made(ruins: Ruins) -> None:
    history(ruins)
    ruins.run("umount", str(ruins.tree))
    state = ruins.json("tape", "status", str(ruins.tree))
    names = [each["name"] for each in state["cartridges"] if each["archives"]]
    ruins.run("tape", "export", *names, "--dir", str(ruins.tree), "--place", "box 3")
    with open_library(Path(ruins.library), "a person") as library:
        assert library.virtual is not None
        for door in library.changer.inventory().doors:
            if door.full:
                library.virtual.take_out(door.number)
    shutil.rmtree(ruins.top / "home")
    shutil.rmtree(ruins.tree)
    said = ruins.run(*ruins.command(), code=ExitCode.NEEDS_CARTRIDGE)
    assert f"{names[0]} (box 3)" in said.stderr.decode()
    assert not ruins.store.exists()


def test_a_directory_that_is_in_use_is_refused(ruins: Ruins) -> None:
    history(ruins)
    ruins.lose_everything()
    ruins.new.mkdir()
    (ruins.new / "here").write_text("somebody's")
    ruins.run(*ruins.command(), code=ExitCode.USAGE)
    assert os.listdir(ruins.new) == ["here"]
    assert not ruins.store.exists()


def test_a_second_store_of_a_volume_is_refused(ruins: Ruins) -> None:
    history(ruins)
    ruins.run("umount", str(ruins.tree))
    said = ruins.run(*ruins.command(), code=ExitCode.BUSY)
    assert b"has a store of that volume already" in said.stderr
    assert not ruins.store.exists()


def test_a_tree_that_outlived_its_store_stays_as_it_is(ruins: Ruins) -> None:
    moment, wanted = list(history(ruins).items())[-1]
    ruins.run("umount", str(ruins.tree))
    shutil.rmtree(ruins.top / "home")
    (ruins.tree / "always").write_text("later than the cartridges\n")
    newest = fingerprint(ruins.tree)
    ruins.new = ruins.tree
    ruins.run(*ruins.command(), code=ExitCode.USAGE)
    ruins.run(*ruins.command("--keep-tree"))
    note = read_relocation(Store.open(ruins.store))
    assert note is not None
    assert note.kept
    assert fingerprint(ruins.tree) == newest
    ruins.mount()
    assert fingerprint(ruins.new) == newest
    assert ruins.past(moment, "out") == wanted


def test_the_tree_may_be_that_of_an_earlier_moment(ruins: Ruins) -> None:
    moments = history(ruins)
    moment, wanted = next(iter(moments.items()))
    last, newest = list(moments.items())[-1]
    ruins.lose_everything()
    done = ruins.json(*ruins.command("--at", moment))
    assert done["held_lsn"] >= int(last.removeprefix("@lsn:"))
    assert fingerprint(ruins.new) == wanted
    ruins.mount()
    assert fingerprint(ruins.new) == wanted
    assert ruins.past(last, "out") == newest
