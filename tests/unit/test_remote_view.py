"""A past state at a vault answers what it answers here, and a hostile vault gets nowhere."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from replicator.errors import BadShipment, PastRefused, ReplicationError
from replicator.reading_wire import (
    ASKED_HEADER,
    DIGEST_HEADER,
    End,
    Entry,
    PointMessage,
    State,
    asked_digest,
)
from replicator.remote import Line, RemoteVault
from replicator.remote_view import NotTold, RemoteView
from replicator.settings import LinkSettings
from replicator.vault.ingest import LineWriter
from store.format import Kind
from store.types import ROOT, Lsn, NodeId
from tests.unit.recorded_tree import RecordedTree, capture
from tests.unit.shipping import make_vault, shipments
from tests.unit.vault_server import VaultServer
from timetravel.errors import NoSuchNode, NoSuchPath
from timetravel.place import Place
from timetravel.restore import restore
from timetravel.view import View


@contextmanager
def served(tree: RecordedTree, base: Path) -> Iterator[RemoteView]:
    """The tree's newest state, at a vault."""
    tree.commit()
    root, replica = make_vault(base, tree.store)
    root.close()
    writer = LineWriter.open(replica)
    for data in shipments(tree.store, 100):
        writer.take(data)
    writer.close()
    with VaultServer(root.path) as server:
        token = base / "token"
        token.write_text(server.sites.add("headquarters", "reader"))
        token.chmod(0o600)
        settings = LinkSettings(url=server.url, token_file=str(token))
        with RemoteVault(settings) as vault:
            yield RemoteView(vault, Line(tree.store.config.uuid), tree.lsn, tree.clock_ns)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RecordedTree]:
    recorded = RecordedTree(tmp_path)
    yield recorded
    recorded.close()


def fill(tree: RecordedTree) -> None:
    dice = random.Random(4)
    for number in range(5):
        tree.mkdir(b"d%d" % number)
        for name in (b"a", b"\xff%\n", "ü".encode()):
            path = b"d%d/%b" % (number, name)
            tree.write(path, dice.randbytes(dice.choice([0, 5, 3000, 1_500_000])))
        tree.setxattr(b"d%d/a" % number, b"user.n", b"\0%d" % number)
    tree.link(b"d1/a", b"d2/also")
    tree.symlink(b"../d1/a", b"d3/to")
    tree.truncate(b"d4/a", 30 << 20)
    tree.write(b"d4/a", b"far out", 29 << 20)


def same(view: View, far: RemoteView, path: bytes) -> None:
    state = view.walk(path)
    there = far.walk(path)
    assert there[:11] == state[:11]
    assert far.state(state.node)[:11] == state[:11]
    assert far.xattrs(state.node) == view.xattrs(state.node)


@pytest.mark.parametrize("at_once", [True, False])
def test_it_answers_as_the_view_here_does(
    tree: RecordedTree, tmp_path: Path, at_once: bool
) -> None:
    fill(tree)
    dice = random.Random(1)
    with served(tree, tmp_path) as far:
        view = View(tree.journal, tree.lsn)
        if at_once:
            far.load_tree(ROOT)
        for path in tree.capture():
            same(view, far, path)
            node = view.walk(path).node
            if os.path.isdir(tree.path(path)) and not os.path.islink(tree.path(path)):
                listed = [(name, state[:11]) for name, state in far.listing(node)]
                assert listed == [(name, state[:11]) for name, state in view.listing(node)]
                continue
            if os.path.islink(tree.path(path)):
                continue
            for _ in range(3):
                start, size = dice.randrange(2_000_000), dice.randrange(1, 2_000_000)
                assert far.read(node, start, size) == view.read(node, start, size)
            assert list(far.data_areas(node)) == list(view.data_areas(node))
        assert far.find(b"nowhere/at/all") is None
        assert far.find(b"d1/a/below a file") is None
        assert far.find(b"/".join([b"x" * 200] * 30)) is None
        with pytest.raises(NoSuchPath):
            far.walk(b"nowhere")
        with pytest.raises(NoSuchNode):
            far.state(NodeId(99_999))
        assert far.lookup(ROOT, b"nothing") is None


def test_a_restore_from_there_is_the_tree(tree: RecordedTree, tmp_path: Path) -> None:
    fill(tree)
    with served(tree, tmp_path) as far, Place(os.fsencode(tmp_path)) as place:
        far.load_tree(ROOT)
        report = restore(far, b"", place, b"back", durable=False)
        assert report.ok, report.failures
    assert capture(os.fsencode(tmp_path / "back")) == tree.capture()


def test_what_was_never_copied_fails_by_itself(tree: RecordedTree, tmp_path: Path) -> None:
    tree.write(b"a", b"a" * 5000)
    with open(tree.path(b"old"), "wb") as file:
        file.write(b"there before" * 1000)
    tree.know(b"old")
    tree.adopt(b"old", Lsn(1))
    tree.write(b"z", b"z" * 5000)
    with served(tree, tmp_path) as far, Place(os.fsencode(tmp_path)) as place:
        far.load_tree(ROOT)
        report = restore(far, b"", place, b"back", durable=False)
        assert [failure.path for failure in report.failures] == [b"back/old"]
        with pytest.raises(NotTold):
            far.read(far.walk(b"old").node, 0, 10)
    assert (tmp_path / "back" / "a").read_bytes() == b"a" * 5000
    assert (tmp_path / "back" / "z").read_bytes() == b"z" * 5000


def test_a_moment_that_has_not_arrived_is_told_as_such(tree: RecordedTree, tmp_path: Path) -> None:
    tree.log(Kind.CHECKPOINT, 0, 0, b"{}")
    with served(tree, tmp_path) as far:
        later = RemoteView(far._vault, far._line, Lsn(9999), 0)
        with pytest.raises(PastRefused) as caught:
            later.walk(b"")
        assert caught.value.kind == "MomentInFuture"


def test_a_refusal_that_tells_the_time_ends_too(tree: RecordedTree, tmp_path: Path) -> None:
    tree.log(Kind.CHECKPOINT, 0, 0, b"{}")
    with served(tree, tmp_path) as far:
        asked = {"moment": "@2199-01-01T00:00:00Z"}
        with pytest.raises(PastRefused, match="lies in the future; it is") as caught:
            far._vault.message(far._line.url("resolve"), asked, PointMessage)
        assert caught.value.kind == "MomentInFuture"


DIRECTORY, FILE = 0o040755, 0o100644


def entry(path: str, node: int, mode: int = FILE) -> Entry:
    numbers = dict.fromkeys(("uid", "gid", "rdev", "atime_ns", "mtime_ns", "ctime_ns"), 0)
    state = State(node=node, mode=mode, size_bytes=4, links=1, changed=1, **numbers)
    return Entry(path=path, state=state)


@contextmanager
def hostile(rows: list[Entry]) -> Iterator[RemoteView]:
    """A vault that tells these entries whenever it is asked for a tree."""
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    end = End(lines=len(rows), digest=blake3(lines).hexdigest())
    body = lines + msgspec.json.encode(end) + b"\n"

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = body
            if "/state?" in self.path:
                data = msgspec.json.encode(entry("", 1, DIRECTORY).state)
            self.send_response(200)
            self.send_header(ASKED_HEADER, asked_digest(self.path.encode(), b""))
            self.send_header(DIGEST_HEADER, blake3(data).hexdigest())
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with RemoteVault(LinkSettings(url=url)) as vault:
                yield RemoteView(vault, Line("ab" * 16), Lsn(5), 0)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "rows",
    [
        [entry("..", 2, DIRECTORY), entry("../x", 3)],
        [entry(".", 2, DIRECTORY)],
        [entry("/etc", 2, DIRECTORY)],
        [entry("a//b", 2)],
        [entry("a%00b", 2)],
        [entry("", 2)],
        [entry("nowhere/x", 2)],
        [entry("file", 2), entry("file/x", 3)],
        [entry("a", 2, DIRECTORY), entry("a/b", 1, DIRECTORY)],
        [entry("a", 2, DIRECTORY), entry("a/b", 2, DIRECTORY)],
        [entry("a", 2, DIRECTORY), entry("b", 3, DIRECTORY), entry("b/a", 2, DIRECTORY)],
    ],
)
def test_a_tree_that_leads_elsewhere_or_nowhere_is_refused(
    rows: list[Entry], tmp_path: Path
) -> None:
    for at_once in (True, False):
        with hostile(rows) as view, Place(os.fsencode(tmp_path)) as place:
            with pytest.raises(ReplicationError) as caught:
                if at_once:
                    view.load_tree(ROOT)
                restore(view, b"", place, b"back", durable=False)
            assert isinstance(caught.value, BadShipment) or "path" in str(caught.value)
        assert os.listdir(tmp_path) == []
