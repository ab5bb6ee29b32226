"""A person's commands with a library whose volume is mounted and in use."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree


class Site(ProtectedTree):
    """A protected tree whose library is looked at."""

    def findings(self, check: str) -> set[str]:
        """How the doctor's checks of a kind came out."""
        found = json.loads(self.doctor())
        return {each["level"] for each in found if each["check"].startswith(check)}

    def doctor(self) -> bytes:
        return subprocess.run(
            [sys.executable, "-P", "-m", "console", "doctor", str(self.tree), "--json"],
            env=self.environment,
            capture_output=True,
            check=False,
        ).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Site]:
    tree = Site(tmp_path)
    tree.run("protect", str(tree.tree), "--store", str(tmp_path / "store"), *RING)
    yield tree
    tree.end()


def write(tree: ProtectedTree, name: str) -> None:
    Path(tree.path(name)).write_text(name * 100)


def test_a_volume_goes_out_and_comes_back_with_nothing_but_commands(tree: Site) -> None:
    library, directory = str(tree.top / "library"), str(tree.tree)
    tree.run(
        "tape", "create-library", library, "--slots", "4", "--drives", "1",
        "--capacity", "64M", "--cartridges", "0",
    )  # fmt: skip
    tree.run("tape", "attach", directory, "--library", library, "--copies", "onsite,offsite")
    write(tree, "one")
    failed = tree.run("tape", "spool", directory, code=ExitCode.NO_SCRATCH)
    assert b"cdpfs tape import" in failed.stderr
    assert any("0 free cartridges" in each for each in tree.json("status", directory)["alarms"])

    tree.run("tape", "import", directory, "--blank", "3")
    tree.run("tape", "spool", directory)
    status = tree.json("tape", "status", directory)
    assert [pool["usable"] for pool in status["volume"]["pools"]] == [True, True]
    assert all(pool["hold"] == pool["barrier_lsn"] for pool in status["volume"]["pools"])
    assert (status["free_cartridges"], status["alarms"]) == (1, [])
    assert not tree.json("status", directory)["alarms"]

    (out,) = tree.json("tape", "export", "--dir", directory, "--pool", "offsite")
    assert (out["place"], out["pool"]) == ("door", "offsite")
    assert tree.json("tape", "status", directory)["take_out"] == [out["name"]]
    needed = tree.json("tape", "shopping-list", directory, "--pool", "offsite")
    assert [each["cartridge"]["name"] for each in needed["read"]] == [out["name"]]
    assert needed["bring"] == []
    tree.run("tape", "shopping-list", directory, "--at", "@lsn:1", code=ExitCode.NO_MOMENT)
    metrics = tree.run("tape", "status", directory, "--prometheus").stdout.decode()
    assert 'cdpfs_tape_free_cartridges{library="' in metrics
    assert 'cdpfs_tape_usable{pool="offsite",volume="' in metrics
    write(tree, "two")
    tree.run("tape", "spool", directory)
    pools = {p["pool"]: p for p in tree.json("tape", "status", directory)["volume"]["pools"]}
    assert [each["closed"] is None for each in pools["offsite"]["sets"]] == [False, True]
    assert len(pools["onsite"]["sets"]) == 1, "the pools are independent of each other"

    (again,) = tree.json("tape", "import", directory)["taken"]
    assert (again["what"], again["label_id"]) == ("known", out["label_id"])
    tree.run("tape", "detach", directory)
    assert tree.json("status", directory)["holds"] == {}
    assert tree.json("status", directory)["tape"] is None
    assert (
        b"has no tape library" in tree.run("tape", "status", directory, code=ExitCode.USAGE).stderr
    )
    kept = tree.json("tape", "status", "--library", library)
    assert len([each for each in kept["cartridges"] if each["archives"]]) == 3


def test_nothing_goes_out_before_its_time(tree: Site) -> None:
    library, directory = str(tree.top / "library"), str(tree.tree)
    tree.run("tape", "create-library", library, "--slots", "4", "--capacity", "64M")
    tree.run("tape", "attach", directory, "--library", library, "--copies", "offsite")
    write(tree, "one")
    tree.run("tape", "spool", directory)
    assert tree.json("tape", "export", "--dir", directory) == [], "nothing is due yet"


def test_a_library_that_is_gone_or_damaged_disturbs_nobody_else(tree: Site) -> None:
    library, directory = tree.top / "library", str(tree.tree)
    tree.run("tape", "create-library", str(library), "--slots", "3", "--capacity", "64M")
    tree.run("tape", "attach", directory, "--library", str(library))
    write(tree, "one")
    tree.run("tape", "spool", directory)
    assert tree.findings("tape") == {"ok"}

    library.rename(tree.top / "elsewhere")
    write(tree, "two")
    tree.run("tape", "spool", directory, code=ExitCode.NO_VOLUME)
    assert any(str(library) in each for each in tree.json("status", directory)["alarms"])
    assert tree.run("cat", tree.path("one"), "--at", tree.now()).stdout == b"one" * 100
    assert "FAIL" in tree.findings("tape")
    (tree.top / "elsewhere").rename(library)
    tree.run("tape", "spool", directory)

    snapshot = library / "catalogue" / "snapshot"
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[:-9])
    write(tree, "three")
    said = tree.run("tape", "spool", directory, code=ExitCode.DAMAGE).stderr
    assert b"cdpfs tape scan" in said
    snapshot.write_bytes(whole)
    tree.run("tape", "spool", directory)
    assert tree.findings("tape") == {"ok"}


def test_a_run_without_a_mount_has_the_same_exit_codes(tree: Site) -> None:
    library, directory = str(tree.top / "library"), str(tree.tree)
    made = tree.run(
        "tape", "create-library", library, "--slots", "2", "--capacity", "8M", "--cartridges", "0"
    )
    assert b"0 free cartridges" in made.stdout
    said = tree.run("tape", "attach", directory, "--library", library).stderr
    assert b"WARNING: archives of 2.0 MiB are too short" in said
    assert b"WARNING: 0 free cartridges" in said
    write(tree, "one")
    tree.run("umount", directory)
    tree.run("tape", "spool", directory, code=ExitCode.NO_SCRATCH)
    tree.run("tape", "import", directory, "--blank", "1")
    tree.run("tape", "spool", directory)
    (pool,) = tree.json("tape", "status", directory)["volume"]["pools"]
    assert pool["usable"]


def test_a_pool_that_was_taken_out_of_the_settings_by_hand_ends(tree: Site) -> None:
    library, directory = str(tree.top / "library"), str(tree.tree)
    tree.run("tape", "create-library", library, "--slots", "4", "--capacity", "64M")
    tree.run("tape", "attach", directory, "--library", library, "--copies", "onsite,second")
    write(tree, "one")
    tree.run("tape", "spool", directory)
    path = tree.top / "store" / "tape.toml"
    settings = tomllib.loads(path.read_text())
    settings["pools"] = settings["pools"][:1]
    path.write_text(tomli_w.dumps(settings))
    write(tree, "two")
    tree.run("tape", "spool", directory)
    assert set(tree.json("status", directory)["holds"]) == {"tape-onsite"}
    kept = tree.json("tape", "status", "--library", library, directory)
    assert {each["pool"]: each["archives"] > 0 for each in kept["cartridges"]} == {
        "onsite": True,
        "second": True,
    }
