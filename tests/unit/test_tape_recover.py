"""Which set a volume is recovered from, and what becomes of what an earlier run had begun."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from store.errors import RecoveryUnfinished, StoreFull
from store.relocation import REPLICATE_COMMAND, read_relocation, write_relocation
from store.types import Lsn
from store.volume import Store
from tape.catalogue_file import CatalogueFile
from tape.catalogue_state import TapeSet
from tape.errors import NoSuchSet
from tape.library import open_library
from tape.recover import COMMAND, Copy, left_behind, recover, to_go_on_with
from tape.robot import Hands, Robot
from tests.spool_scene import Scene
from tests.unit.recorded_tree import capture
from timetravel.moment import AtLsn
from timetravel.recovery import Recovered, Wish


class Ruins:
    """A scene whose volume is recovered into `tree`. `onsite` reaches further than `offsite`."""

    def __init__(self, base: Path) -> None:
        self.scene = Scene(base / "site", slots=12)
        self.tree = base / "tree"
        self.store = base / "store"
        self.said: list[str] = []
        self.uuid = self.scene.tree.store.config.uuid
        noise = random.Random(1)
        for number in range(6):
            self.scene.tree.write(b"%d" % (number % 5), noise.randbytes(500_000), number * 100)
            self.scene.tree.commit()
            if number == 3:
                self.scene.spool(self.scene.rules("onsite"), self.scene.rules("offsite"))
        self.scene.spool(self.scene.rules("onsite"))

    def pool(self, name: str) -> TapeSet:
        [found] = self.scene.state().sets_of(self.uuid, name)
        return found

    def is_whole(self) -> bool:
        """Is the tree that of the site?"""
        return capture(os.fsencode(self.tree)) == capture(self.scene.tree.root)

    @contextlib.contextmanager
    def library(self) -> Iterator[tuple[CatalogueFile, Robot]]:
        with (
            open_library(self.scene.home, "a test") as library,
            CatalogueFile.open(library.catalogue) as catalogue,
        ):
            yield (
                catalogue,
                Robot(
                    Hands(
                        library.changer,
                        library.drives,
                        lambda event: None,
                        self.scene.now_ns,
                        lambda seconds: None,
                    )
                ),
            )

    def recover(self, pool: str = "", cut_at: int | None = None, at: str = "") -> Recovered:
        """A run; with `cut_at` it is cut before it reads archive `cut_at`."""
        begun = 0

        def say(text: str) -> None:
            nonlocal begun
            self.said.append(text)
            begun += text.startswith("reading")
            if cut_at is not None and begun > cut_at:
                raise StoreFull("cut")

        return recover(
            self.library,
            Copy(pool=pool),
            Wish(str(self.tree), self.store, at),
            say=say,
            progress=lambda stage, done, total: None,
        )


@pytest.fixture
def ruins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ruins]:
    monkeypatch.setenv("CDPFS_HOME", str(tmp_path / "home"))
    made = Ruins(tmp_path)
    yield made
    made.scene.close()


def test_the_set_that_reaches_furthest_is_gone_on_with_and_all_sets_end(ruins: Ruins) -> None:
    assert not ruins.pool("offsite").closed_ns
    done = ruins.recover()
    assert done.ready
    assert done.store.config.foreign_lsn == ruins.scene.tree.journal.indexed_lsn
    assert done.note.set_id == ruins.pool("onsite").set_id
    assert ruins.is_whole()
    assert ruins.pool("offsite").closed_ns
    assert ruins.pool("onsite").closed_ns
    assert not [text for text in ruins.said if "WARNING" in text]


def test_a_pool_that_lags_behind_is_taken_if_asked_for_and_the_other_is_named(ruins: Ruins) -> None:
    done = ruins.recover("offsite")
    assert done.ready
    assert done.note.set_id == ruins.pool("offsite").set_id
    assert done.store.config.foreign_lsn < ruins.scene.tree.journal.indexed_lsn
    [warning] = [text for text in ruins.said if "WARNING" in text]
    assert "of the pool onsite" in warning


@pytest.mark.parametrize("archives", [0, 1, 2])
def test_a_recovery_that_was_cut_goes_on(ruins: Ruins, archives: int) -> None:
    with pytest.raises(StoreFull):
        ruins.recover(cut_at=archives)
    assert ruins.recover().ready
    assert ruins.is_whole()


def test_what_was_read_of_one_set_is_not_mixed_with_another(ruins: Ruins) -> None:
    with pytest.raises(StoreFull):
        ruins.recover("offsite", cut_at=1)
    note = read_relocation(Store.open(ruins.store))
    assert note is not None
    assert note.set_id == ruins.pool("offsite").set_id
    done = ruins.recover()
    assert done.ready
    assert done.note.set_id == ruins.pool("onsite").set_id
    assert ruins.is_whole()


def test_a_store_that_was_not_begun_by_this_is_left_alone(ruins: Ruins) -> None:
    with pytest.raises(StoreFull):
        ruins.recover(cut_at=1)
    store = Store.open(ruins.store)
    note = read_relocation(store)
    assert note is not None
    assert note.command == COMMAND
    write_relocation(store, msgspec.structs.replace(note, command=REPLICATE_COMMAND, set_id=""))
    with pytest.raises(RecoveryUnfinished, match="was begun by `cdpfs replicate recover`"):
        ruins.recover()


def test_a_moment_before_the_furthest_set_is_refused(ruins: Ruins) -> None:
    state, base = ruins.scene.state(), ruins.pool("onsite").base_lsn
    assert to_go_on_with(state, ruins.uuid, AtLsn(Lsn(base))).tape_set.pool == "onsite"
    with pytest.raises(NoSuchSet, match="does not hold that moment"):
        to_go_on_with(state, ruins.uuid, AtLsn(Lsn(base - 1)))
    with pytest.raises(NoSuchSet, match="no set in the pool elsewhere"):
        to_go_on_with(state, ruins.uuid, None, "elsewhere")
    assert left_behind(state, to_go_on_with(state, ruins.uuid, None)) == []
