"""The whole way once: what was written can be read, now and then."""

from __future__ import annotations

import os

from tests.volume import Volume


def test_a_file_can_be_taken_back_from_before_it_was_spoiled(volume: Volume) -> None:
    report = volume.tree / "report.txt"
    report.write_text("good")
    good = volume.sync()
    report.write_text("spoiled")
    assert (volume.past(good) / "report.txt").read_text() == "good"
    assert report.read_text() == "spoiled"


def test_what_was_there_before_protection_is_in_every_view(unmounted: Volume) -> None:
    old = os.urandom(3 << 20)
    (unmounted.backing / "old.bin").write_bytes(old)
    unmounted.mount()
    with (unmounted.tree / "old.bin").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"changed")
    assert (unmounted.past(1) / "old.bin").read_bytes() == old


def test_a_removed_tree_comes_back_after_a_remount(volume: Volume) -> None:
    (volume.tree / "a" / "b").mkdir(parents=True)
    (volume.tree / "a" / "b" / "c").write_text("c")
    before = volume.sync()
    os.unlink(volume.tree / "a" / "b" / "c")
    os.rmdir(volume.tree / "a" / "b")
    volume.unmount()
    volume.mount()
    assert (volume.past(before) / "a" / "b" / "c").read_text() == "c"
    assert not (volume.tree / "a" / "b").exists()
