"""Reading a vault's volumes over HTTP: what is told, to whom, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRequest
from replicator.held import JournalHeld
from replicator.reading_wire import (
    DIGEST_HEADER,
    FRAME,
    Areas,
    ChangeMessage,
    DeletedMessage,
    Digests,
    End,
    Entry,
    PointMessage,
    PointRow,
    State,
    VersionMessage,
    VolumeMessage,
    decode_name,
    decode_path,
    encode_name,
    node_state,
    state_message,
    xattrs_of,
)
from replicator.remote import Damaged, _unpacked
from replicator.shipment import decode_shipment
from replicator.vault.ingest import LineWriter
from replicator.wire import Description
from store.journal import NodeState
from store.types import Lsn, NodeId
from tests.unit.recorded_tree import RecordedTree
from tests.unit.shipping import all_batches, make_vault, shipments
from tests.unit.vault_server import SiteClient, VaultServer, refusal_in
from timetravel.view import View


class Library:
    """A recorded tree, replicated, and a reader of it."""

    def __init__(self, tree: RecordedTree, server: VaultServer, client: SiteClient) -> None:
        self.tree = tree
        self.server = server
        self.client = client
        self.uuid = tree.store.config.uuid
        self.lsn = tree.lsn

    def get(self, what: str, **params: object) -> Any:
        url = f"/v1/volumes/{self.uuid}/{what}"
        return self.client.http.get(url, params={key: str(params[key]) for key in params})

    def post(self, what: str, body: object, lsn: int = 0) -> Any:
        return self.client.http.post(
            f"/v1/volumes/{self.uuid}/{what}",
            params={"lsn": lsn or self.lsn},
            content=msgspec.json.encode(body),
        )


def decoded(answer: Any, kind: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=kind)


def rows(answer: Any, kind: Any) -> list[Any]:
    assert answer.status_code == 200, answer.text
    lines = answer.content.split(b"\n")
    assert lines.pop() == b""
    end = msgspec.json.decode(lines.pop(), type=End)
    assert end.lines == len(lines)
    assert end.digest == blake3(b"".join(line + b"\n" for line in lines)).hexdigest()
    return [msgspec.json.decode(line, type=kind) for line in lines]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    tree = RecordedTree(tmp_path)
    tree.mkdir(b"d")
    tree.act_as(99, b"s\xffsh")
    tree.write(b"d/f", b"first version")
    tree.setxattr(b"d/f", b"user.colour", b"\0red")
    tree.symlink(b"f", b"d/to f")
    tree.write(b"odd%\xff\n", b"odd")
    tree.write(b"big", os.urandom(3_000_000))
    tree.truncate(b"big", 40 << 20)
    tree.mark("done")
    tree.wait(10)
    tree.write(b"d/f", b"second")
    tree.rename(b"d/to f", b"moved")
    tree.remove(b"odd%\xff\n")
    tree.commit()
    root, replica = make_vault(tmp_path, tree.store)
    root.close()
    writer = LineWriter.open(replica)
    for data in shipments(tree.store, 100):
        writer.take(data)
    writer.close()
    with VaultServer(root.path) as server:
        token = server.sites.add("branch", "site")
        with server.client(token) as client:
            yield Library(tree, server, client)
    tree.close()


names = st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda t: t.encode()))


@given(names)
def test_a_name_has_exactly_one_text(name: bytes) -> None:
    text = encode_name(name)
    assert decode_name(text) == name
    text.encode("ascii" if name.isascii() else "utf-8")
    assert "\n" not in text and "\0" not in text
    assert msgspec.json.decode(msgspec.json.encode(text)) == text


@given(st.text(max_size=30))
def test_a_text_that_stands_for_no_name_is_refused(text: str) -> None:
    try:
        name = decode_name(text)
    except BadRequest:
        return
    assert encode_name(name) == text


@pytest.mark.parametrize("path", ["/etc", "a//b", "a/", ".", "..", "a/../b", "a%00b", "%2E%2E"])
def test_paths_that_could_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        decode_path(path)


@given(st.binary(max_size=20), st.integers(0, (1 << 63) - 1))
def test_attributes_come_through(target: bytes, number: int) -> None:
    state = NodeState(
        NodeId(5), 0o120777, 1, 2, 3, number, number, -number, 7, 1, target, 0, Lsn(number), 0
    )
    sent = msgspec.json.decode(msgspec.json.encode(state_message(state)), type=State)
    assert node_state(sent) == state


@pytest.mark.expects_warnings
def test_the_volumes_that_one_may_read_are_listed(library: Library) -> None:
    reader = library.server.sites.add("headquarters", "reader")
    other = library.server.sites.add("elsewhere", "site")
    with library.server.client(reader) as client:
        found = decoded(client.http.get("/v1/volumes"), list[VolumeMessage])
        assert [volume.uuid for volume in found] == [library.uuid]
        (line,) = found[0].lines
        assert (line.line, line.held_lsn) == ("main", library.lsn)
        assert 0 < line.visible_lsn <= library.lsn
    with library.server.client(other) as client:
        assert decoded(client.http.get("/v1/volumes"), list[VolumeMessage]) == []
        path = f"/v1/volumes/{library.uuid}"
        for what in ("tree?lsn=3", "history", "shipments?from=1", "resolve?moment=@lsn:3"):
            refusal_in(client.http.get(f"{path}/{what}"), 403)


def test_a_tree_is_told_with_everything(library: Library) -> None:
    view = View(library.tree.journal, library.lsn)
    found = rows(library.get("tree", lsn=library.lsn, deep=1), Entry)
    by_path = {decode_name(entry.path): entry for entry in found}
    assert sorted(by_path) == [b"big", b"d", b"d/f", b"moved"]
    for path, entry in by_path.items():
        state = view.walk(path)
        assert node_state(entry.state)[:11] == state[:11]
        assert xattrs_of(entry.xattrs) == view.xattrs(state.node)
    flat = rows(library.get("tree", lsn=library.lsn), Entry)
    assert [entry.path for entry in flat] == ["big", "d", "moved"]


@pytest.mark.expects_warnings
def test_content_comes_by_ranges_each_with_its_digest(library: Library) -> None:
    view = View(library.tree.journal, library.lsn)
    node = view.walk(b"big").node
    url = f"/v1/volumes/{library.uuid}/content?lsn={library.lsn}&node={node}"
    for header, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=2999990-3000009", 2_999_990, 3_000_010),
        ("bytes=41943030-", 41_943_030, 40 << 20),
        ("bytes=-7", (40 << 20) - 7, 40 << 20),
    ):
        answer = library.client.http.get(url, headers={"Range": header})
        assert answer.status_code == 206
        assert answer.content == view.read(node, start, stop - start)
        assert answer.headers[DIGEST_HEADER] == blake3(answer.content).hexdigest()
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{40 << 20}"
    whole = library.client.http.get(url)
    assert whole.status_code == 200
    assert whole.content == view.read(node, 0, 40 << 20)
    assert library.client.http.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416
    refusal_in(library.client.http.get(url, headers={"Range": "bytes=9-1"}), 400)
    refusal_in(library.client.http.get(url, headers={"Range": "lines=1-2"}), 400)


def test_many_ranges_come_in_one_answer(library: Library) -> None:
    view = View(library.tree.journal, library.lsn)
    big, small = view.walk(b"big").node, view.walk(b"d/f").node
    ranges = [[small, 0, 100], [big, 1 << 20, 1 << 20], [big, 40 << 20, 10], [small, 3, 2]]
    answer = library.post("contents", {"ranges": ranges})
    assert answer.status_code == 200
    assert answer.headers[DIGEST_HEADER] == blake3(answer.content).hexdigest()
    expected = [view.read(NodeId(node), start, size) for node, start, size in ranges]
    assert answer.content == b"".join(FRAME.pack(len(data)) + data for data in expected)
    said = decoded(library.post("digests", {"ranges": ranges}), Digests)
    assert said.digests == [blake3(data).hexdigest() for data in expected]
    found = decoded(library.get("areas", lsn=library.lsn, node=big), Areas)
    assert found.areas == [(start, stop) for start, stop in view.data_areas(big)]


def test_contents_come_packed_for_who_accepts_it_and_only_if_that_is_worth_it(
    library: Library,
) -> None:
    view = View(library.tree.journal, library.lsn)
    big = view.walk(b"big").node
    url = f"/v1/volumes/{library.uuid}/contents?lsn={library.lsn}"
    for start, packed in ((10 << 20, True), (0, False)):
        body = msgspec.json.encode({"ranges": [[big, start, 1 << 20]]})
        plain = library.client.http.post(url, content=body, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        answer = library.client.http.post(url, content=body, headers={"accept-encoding": "zstd"})
        assert (answer.headers.get("content-encoding") == "zstd") == packed
        assert answer.content == plain.content  # httpx unpacks it
        assert answer.headers[DIGEST_HEADER] == plain.headers[DIGEST_HEADER]


def test_an_answer_that_would_grow_without_end_is_not_unpacked() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    for data in (bomb, bomb[:20], b"", b"no zstd at all"):
        with pytest.raises(Damaged):
            _unpacked(data, 1 << 20)


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"ranges": []}',
        b'{"ranges": [[1, 0, 0]]}',
        b'{"ranges": [[1, 0, 99999999]]}',
        b'{"ranges": [[1, -1, 5]]}',
        b'{"ranges": [["x", 0, 5]]}',
        b'{"ranges": [' + b"[1, 0, 4194304]," * 4 + b"[1, 0, 1]]}",
        b"\xff",
    ],
)
def test_ranges_that_make_no_sense_are_refused(library: Library, body: bytes) -> None:
    url = f"/v1/volumes/{library.uuid}/contents?lsn={library.lsn}"
    refusal_in(library.client.http.post(url, content=body), 400)


@pytest.mark.expects_warnings
def test_a_moment_is_resolved_in_the_zone_of_who_asks(library: Library) -> None:
    point = decoded(library.get("resolve", moment="@mark:done"), PointMessage)
    assert point.grade == "mark"
    assert point.held_lsn == library.lsn
    refusal = refusal_in(library.get("resolve", moment="@yesterday"), 400)
    assert "time zone" in refusal.message
    answer = library.get("resolve", moment="@2023-11-15T10:00", zone="Europe/Vienna")
    assert decoded(answer, PointMessage).lsn <= library.lsn
    refusal_in(library.get("resolve", moment="@nonsense?", zone="UTC"), 400)
    assert refusal_in(library.get("resolve", moment="@lsn:99999"), 404).kind == "MomentInFuture"
    refusal_in(library.get("resolve", moment="@2023-11-15T10:00", zone="Mars/Olympus"), 400)


def test_history_points_differences_and_deletions(library: Library) -> None:
    versions = rows(library.get("history", path="d/f"), VersionMessage)
    assert [version.events[-1] for version in versions] == ["attributes", "written"]
    assert versions[0].actor is not None
    assert versions[0].actor.command == "s%FFsh"
    points = rows(library.get("points", grade="mark"), PointRow)
    assert [point.name for point in points] == ["done"]
    mark = points[0].lsn
    changes = rows(library.get("diff", from_lsn=mark, to_lsn=library.lsn), ChangeMessage)
    found = {(change.kind, change.path) for change in changes}
    assert {("modified", "d/f"), ("renamed", "moved"), ("removed", "odd%25%FF%0A")} <= found
    deleted = rows(library.get("deleted", lsn=library.lsn), DeletedMessage)
    assert [entry.path for entry in deleted] == ["odd%25%FF%0A"]


@pytest.mark.expects_warnings
def test_what_is_not_there_is_said_to_be_missing(library: Library) -> None:
    state = refusal_in(library.get("state", lsn=library.lsn, path="nowhere"), 404)
    assert state.kind == "NoSuchPath"
    assert refusal_in(library.get("tree", lsn=library.lsn, node=987), 404).kind == "NoSuchNode"
    assert refusal_in(library.get("state", lsn=99999, path=""), 404).kind == "MomentInFuture"
    assert refusal_in(library.get("history", path="nowhere"), 404).kind == "NoSuchPath"
    refusal_in(library.get("tree", lsn=library.lsn, line="other"), 404)
    for bad in ("", "x", "-1", "9" * 30, "1.5"):
        refusal_in(library.get("tree", lsn=bad), 400)


def test_a_shipment_is_made_anew_from_any_lsn(library: Library) -> None:
    batches = all_batches(library.tree.store)
    answer = library.get("shipments", **{"from": 1})
    assert answer.status_code == 200
    assert answer.headers[DIGEST_HEADER] == blake3(answer.content).hexdigest()
    with library.tree.journal.snapshot() as snapshot:
        shipment = decode_shipment(answer.content, JournalHeld(snapshot, Lsn(1)))
    assert shipment.batches == batches[: len(shipment.batches)]
    assert library.get("shipments", **{"from": library.lsn + 1}).status_code == 204
    refusal_in(library.get("shipments", **{"from": library.lsn + 2}), 404)


@pytest.mark.expects_warnings
def test_a_sealed_volume_is_not_read_here(library: Library) -> None:
    about = Description(name="secret", directory="/s", created_ns=1, sealed=True)
    uuid = "ab" * 16
    library.client.describe(uuid, about)
    found = decoded(library.client.http.get("/v1/volumes"), list[VolumeMessage])
    assert [volume.sealed for volume in found if volume.uuid == uuid] == [True]
    answer = library.client.http.get(f"/v1/volumes/{uuid}/tree?lsn=1")
    assert refusal_in(answer, 403).kind == "Sealed"


@pytest.mark.expects_warnings
def test_a_line_that_can_not_be_read_does_not_hide_the_others(library: Library) -> None:
    about = Description(name="broken", directory="/b", created_ns=1)
    uuid = "cd" * 16
    library.server.root.create_volume("branch", uuid, about)
    index = library.server.root.store(uuid).index_dir
    (index / "data.mdb").write_bytes(b"not LMDB" * 1000)
    found = decoded(library.client.http.get("/v1/volumes"), list[VolumeMessage])
    lines = {volume.name: len(volume.lines) for volume in found}
    assert lines == {"branch": 1, "broken": 0}
