"""Stores that are not as they were written, and requests that are none: every one is found or
refused with a message, a next step and an exit code, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from console.exit_codes import ExitCode
from store.errors import StoreError
from store.format import RECORD, RING_HEADER, RING_HEADER_BYTES, SEGMENT_HEADER
from store.journal import Journal
from store.types import Lsn
from store.verify import verify
from store.volume import Store
from tests.commandline import RING, ProtectedTree
from tests.crash import copies
from tests.volume import Volume
from timetravel.view import View

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)

FLIPS = 25


def _fill(tree: Path) -> None:
    for number in range(20):
        folder = tree / f"d{number % 4}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(b"line %d\n" % number * 40 * number)
    os.setxattr(tree / "d0", "user.colour", b"blue")
    os.rename(tree / "d1", tree / "e1")
    (tree / "d0" / "f4").write_text("the second time")
    os.unlink(tree / "d2" / "f2")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with some history, unmounted in order."""
    volume = Volume(tmp_path_factory.mktemp("ended"), ring_files=3)
    (volume.backing / "old").write_bytes(random.Random(1).randbytes(300_000))
    try:
        volume.mount()
        _fill(volume.tree)
        volume.sync()
        volume.unmount()
    finally:
        volume.close()
    return volume.store.root


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose intake log holds ops that the journal does not, all but the last ones synced.

    Only of what was on disk once can be told that it is damaged, not lost in a power cut.
    """
    volume = Volume(tmp_path_factory.mktemp("crashed"), ring_files=3)
    try:
        volume.mount()
        (volume.tree / "indexed").write_text("in the journal")
        volume.sync()
        os.kill(volume.indexer_pid(), 19)  # SIGSTOP: from here on nothing is indexed
        stopped = volume.indexer_pid()
        _fill(volume.tree)
        with (volume.tree / "synced").open("wb") as file:
            file.write(b"on disk")
            os.fsync(file)
        (volume.tree / "later").write_text("not synced")
        volume.kill()
        os.kill(stopped, 9)
    finally:
        volume.close()
    return volume.store.root


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[ProtectedTree]:
    """A directory and `cdpfs`."""
    made = ProtectedTree(tmp_path)
    try:
        yield made
    finally:
        made.end()


def copy_of(root: Path, to: Path) -> Path:
    """A copy of a store that may be damaged."""
    return Path(shutil.copytree(root, to, ignore=shutil.ignore_patterns("*.sock")))


def flip(path: Path, offset: int, bit: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


def fingerprint(root: Path) -> list[object]:
    """Everything that a store says: for comparing two of them."""
    with Journal(Store.open(root)) as journal:
        end = journal.indexed_lsn
        views = [copies.of_view(View(journal, Lsn(lsn))) for lsn in (end // 2, end)]
        return [end, list(journal.ops(Lsn(1), Lsn(end + 1))), *views]


# --- one flipped bit --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["index/data.mdb", "segments", "intake", "volume.toml"])
def test_a_flipped_bit_is_found_or_changes_nothing(ended: Path, tmp_path: Path, place: str) -> None:
    right = fingerprint(ended)
    rng = random.Random(place)
    sources = sorted((ended / place).iterdir()) if (ended / place).is_dir() else [ended / place]
    store = copy_of(ended, tmp_path / "copy")
    found = 0
    for _ in range(FLIPS):
        source = rng.choice(sources)
        data = source.read_bytes()
        used = len(data.rstrip(b"\0"))
        offset, bit = rng.randrange(max(used, RING_HEADER.size_bytes)), 1 << rng.randrange(8)
        target = store / source.relative_to(ended)
        flip(target, offset, bit)
        try:
            sound = verify(Store.open(store)).sound
            assert not sound or fingerprint(store)[1:] == right[1:], (source.name, offset, bit)
            found += not sound
        except StoreError:
            found += 1
        target.write_bytes(data)
    if place != "index/data.mdb":  # most of its bytes are pages that nothing uses any more
        assert found
    assert verify(Store.open(store)).sound


def test_a_flipped_bit_in_a_segment_ends_with_the_code_for_damage(
    ended: Path, tree: ProtectedTree
) -> None:
    store = copy_of(ended, tree.top / "copy")
    (segment, *_) = sorted((store / "segments").iterdir())
    flip(segment, segment.stat().st_size // 2)
    found = tree.run("verify", "--store", str(store), code=ExitCode.DAMAGE)
    assert segment.name in found.stderr.decode()


# --- the intake log ---------------------------------------------------------------------------


def records(ring: Path) -> list[tuple[int, int]]:
    """(offset, LSN) of each record of a ring file's generation."""
    data = ring.read_bytes()
    generation = RING_HEADER.unpack(data)["generation"]
    found, at = [], RING_HEADER_BYTES
    while at + RECORD.size_bytes <= len(data):
        record = RECORD.unpack(data, at)
        if record["generation"] != generation or not record["lsn"]:
            break
        found.append((at, record["lsn"]))
        at += (RECORD.size_bytes + record["length"] + 7) & -8
    return found


class Beside:
    """A copy of a store and of its tree, to be mounted at a place of its own."""

    def __init__(self, root: Path, top: Path) -> None:
        self.store = copy_of(root, top / "store")
        self.tree = top / "tree"
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(root.parent / "tree", self.tree, copy_function=shutil.copy2)
        for folder, _, _ in os.walk(root.parent / "tree"):
            shutil.copystat(folder, self.tree / Path(folder).relative_to(root.parent / "tree"))
        config = self.store / "volume.toml"
        before, after = str(root.parent / "tree"), str(self.tree)
        config.write_text(config.read_text().replace(f'"{before}"', f'"{after}"'))
        self.intake = self.store / "intake"

    def state(self) -> dict[str, bytes]:
        """Every file that a refused mount must leave alone."""
        folders = (self.intake, self.store / "segments", self.store / "index")
        files = [path for folder in folders for path in folder.iterdir()]
        return {path.name: path.read_bytes() for path in files if path.name != "lock.mdb"}


@pytest.fixture
def beside(crashed: Path, tree: ProtectedTree) -> Beside:
    """A copy of the crashed store, whose tree is the one of `tree`."""
    return Beside(crashed, tree.top)


def _names(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


def test_a_torn_record_at_the_end_is_cut(beside: Beside, tree: ProtectedTree) -> None:
    ring = beside.intake / "0000.ring"
    (offset, lsn) = records(ring)[-1]
    before = _names(beside.tree)
    flip(ring, offset + RECORD.size_bytes - 1)
    tree.run("mount", "--store", str(beside.store))
    assert _names(beside.tree) == before
    status = tree.json("status", "--store", str(beside.store))
    assert status["lsn"] >= lsn
    tree.run("umount", "--store", str(beside.store))
    tree.run("verify", "--store", str(beside.store))


def test_damage_in_the_middle_is_refused_and_nothing_is_touched(
    beside: Beside, tree: ProtectedTree
) -> None:
    ring = beside.intake / "0000.ring"
    known = records(ring)
    offset, lsn = known[-10]
    flip(ring, offset + 20)
    before = beside.state()
    refusal = tree.run("mount", "--store", str(beside.store), code=ExitCode.DAMAGE)
    assert str(lsn) in refusal.stderr.decode()
    assert beside.state() == before
    assert not tree.is_mounted
    tree.run("verify", "--store", str(beside.store), code=ExitCode.DAMAGE)
    # The way out that the message names: nothing of the directory is lost or taken back.
    content = copies.of_tree(beside.tree)
    beside.intake.rename(beside.store / "intake.damaged")
    tree.run("mount", "--store", str(beside.store))
    live = copies.of_tree(beside.tree)
    assert copies.differences(live, content) == []
    past = copies.of_tree(beside.tree / ".snapshots" / "@now")
    assert copies.differences(past, live) == []


def test_damage_in_what_the_journal_holds_does_not_keep_the_volume_down(
    beside: Beside, tree: ProtectedTree
) -> None:
    ring = beside.intake / "0000.ring"
    flip(ring, records(ring)[0][0] + 20)  # LSN 1, indexed long ago
    before = _names(beside.tree)
    # Nobody reads it again: the journal has it, and that is what is verified.
    tree.run("verify", "--store", str(beside.store))
    tree.run("mount", "--store", str(beside.store))
    assert _names(beside.tree) == before
    past = copies.of_tree(beside.tree / ".snapshots" / "@now")
    assert copies.differences(past, copies.of_tree(beside.tree)) == []


# --- versions and features --------------------------------------------------------------------


def _newer_ring(store: Path) -> None:
    _patch(store / "intake" / "0000.ring", RING_HEADER.size_bytes, 8, 99)


def _feature_ring(store: Path) -> None:
    _patch(store / "intake" / "0000.ring", RING_HEADER.size_bytes, 10, 4)


def _newer_segment(store: Path) -> None:
    _patch(next((store / "segments").iterdir()), SEGMENT_HEADER.size_bytes, 8, 99)


def _feature_segment(store: Path) -> None:
    _patch(next((store / "segments").iterdir()), SEGMENT_HEADER.size_bytes, 10, 4)


def _patch(path: Path, header_bytes: int, offset: int, value: int) -> None:
    """A header as another version would have written it: with the right checksum."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<H", raw, offset, value)
    check = xxhash.xxh3_64_intdigest(bytes(raw[: header_bytes - 8]))
    struct.pack_into("<Q", raw, header_bytes - 8, check)
    path.write_bytes(raw)


def _newer_config(store: Path) -> None:
    config = store / "volume.toml"
    config.write_text(config.read_text().replace("format_version = 1", "format_version = 99"))


@pytest.mark.parametrize(
    "age", [_newer_ring, _feature_ring, _newer_segment, _feature_segment, _newer_config]
)
def test_a_file_of_a_newer_format_is_refused_by_name(
    beside: Beside, tree: ProtectedTree, age: Callable[[Path], None]
) -> None:
    age(beside.store)
    before = beside.state()
    refusal = tree.run("mount", "--store", str(beside.store), code=ExitCode.FORMAT)
    words = refusal.stderr.decode()
    assert "newer" in words or "new" in words
    assert beside.state() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("capture = ", "colour = "),
        ('capture = "exact"', 'capture = "sometimes"'),
        ("ring_files = 3", 'ring_files = "three"'),
        ("ring_files = 3", "ring_files = 1"),
        ("ring_file_bytes = 8388608", "ring_file_bytes = 65536"),
        ('uuid = "', 'uuid = "x'),
        ('directory = "/', 'directory = "'),
        ("name = ", "name "),
        ("name = ", "\udcff = "),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    beside: Beside, tree: ProtectedTree, old: str, new: str
) -> None:
    config = beside.store / "volume.toml"
    text = config.read_text()
    assert old in text
    config.write_bytes(text.replace(old, new).encode("utf-8", "surrogateescape"))
    before = beside.state()
    code = ExitCode.USAGE if "65536" in new else ExitCode.FAILURE
    refusal = tree.run("mount", "--store", str(beside.store), code=code)
    assert "volume.toml" in refusal.stderr.decode()
    assert beside.state() == before


# --- the index --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["folder", "file", "emptied"])
def test_an_index_that_is_gone_is_named_and_made_again(
    ended: Path, tree: ProtectedTree, how: str
) -> None:
    right = fingerprint(ended)
    place = Beside(ended, tree.top)
    index = place.store / "index"
    # The log alone could give it again only if it still went back to the first op.
    for ring in place.intake.iterdir():
        ring.unlink()
    if how == "folder":
        shutil.rmtree(index)
    elif how == "file":
        (index / "data.mdb").unlink()
    else:
        (index / "data.mdb").write_bytes(b"")
    refusal = tree.run("mount", "--store", str(place.store), code=ExitCode.FAILURE)
    assert "cdpfs reindex" in refusal.stderr.decode()
    tree.run("reindex", "--store", str(place.store))
    assert fingerprint(place.store) == right
    tree.run("mount", "--store", str(place.store))
    tree.run("umount", "--store", str(place.store))
    tree.run("verify", "--store", str(place.store))


def test_a_damaged_index_is_refused_and_made_again(ended: Path, tree: ProtectedTree) -> None:
    place = Beside(ended, tree.top)
    with (place.store / "index" / "data.mdb").open("r+b") as file:
        file.write(b"x" * 8192)  # both of LMDB's meta pages
    refusal = tree.run("mount", "--store", str(place.store), code=ExitCode.DAMAGE)
    assert "reindex" in refusal.stderr.decode()
    tree.run("reindex", "--store", str(place.store))
    assert fingerprint(place.store) == fingerprint(ended)


# --- two of a kind ----------------------------------------------------------------------------


def test_a_copied_store_can_not_be_mounted_over_the_original(tree: ProtectedTree) -> None:
    (tree.tree / "file").write_text("one")
    tree.run("protect", str(tree.tree), *RING)
    store = Path(tree.json("status", str(tree.tree))["store"])
    copy = copy_of(store, tree.top / "copied")
    tree.run("mount", "--store", str(copy), code=ExitCode.BUSY)
    tree.run("mount", str(tree.tree), code=ExitCode.BUSY)
    assert (tree.tree / "file").read_text() == "one"
    tree.run("umount", str(tree.tree))


def test_a_volume_whose_socket_is_gone_is_still_not_mounted_twice(tree: ProtectedTree) -> None:
    (tree.tree / "file").write_text("one")
    tree.run("protect", str(tree.tree), *RING)
    store = Path(tree.json("status", str(tree.tree))["store"])
    hidden = (store / "control.sock").rename(store / "control.hidden")
    tree.run("mount", str(tree.tree), code=ExitCode.BUSY)
    assert (tree.tree / "file").read_text() == "one"
    hidden.rename(store / "control.sock")
    tree.run("umount", str(tree.tree))


# --- the control socket -----------------------------------------------------------------------


def _ask(volume: Volume, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(volume.store.socket_path))
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(1 << 16):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # it hung up with some of our data unread
        return answer


@pytest.mark.parametrize(
    "request_",
    [
        b"\xff\xfe\n",
        b"null\n",
        b"[]\n",
        b"7\n",
        b'{"v":1}\n',
        b'{"v":2,"call":"status"}\n',
        b'{"v":1,"call":{"a":1}}\n',
        b'{"v":1,"call":"_serve","args":{}}\n',
        b'{"v":1,"call":"status","args":[1]}\n',
        b'{"v":1,"call":"seed","args":{"node":"x"}}\n',
        b'{"v":1,"call":"seed","args":{"node":99999999999999999999999}}\n',
        b'{"v":1,"call":"seed","args":{"node":1,"region":-5}}\n',
        b'{"v":1,"call":"mark","args":{"name":"a/b"}}\n',
        b'{"v":1,"call":"mark","args":{"name":"' + b"x" * 70000 + b'"}}\n',
        b'{"v":1,"call":"seed_rate","args":{"bytes_s":-1}}\n',
        b"[" * 100_000 + b"\n",
        b"\n",
    ],
)
def test_garbage_on_the_control_socket_gets_an_error_and_no_more(
    talking: Volume, request_: bytes
) -> None:
    (line,) = _ask(talking, request_).splitlines()
    answer = json.loads(line)
    assert answer["ok"] is False
    assert answer["error"]["message"]
    assert answer["error"]["hint"]
    assert talking.call("status")["state"] == "mounted"


def test_a_request_without_end_is_cut_off(talking: Volume) -> None:
    answer = _ask(talking, b"x" * (3 << 20))
    assert b'"ok": false' in answer or answer == b""
    assert talking.call("status")["state"] == "mounted"


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    """A mounted volume."""
    volume = Volume(tmp_path_factory.mktemp("talking"))
    try:
        volume.mount()
        yield volume
    finally:
        volume.close()
    assert "Traceback" not in volume.log_text(), volume.log_text()
