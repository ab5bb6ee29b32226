"""docs/format.md says what the code does."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.format import TABLES, Flag, Kind, Table
from store.format_doc import PAGE, PAYLOADS, comments_of, main, render
from store.ops import Actor, Adopted, Attributes, Created, Renamed, encode_entry
from store.types import NodeId

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
names = st.binary(min_size=1, max_size=255)


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == render()
    assert main(["--check"]) == 0


def test_a_stale_page_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nonsense"]) == 2
    assert "usage" in capsys.readouterr().err


def test_every_table_kind_and_flag_is_on_the_page() -> None:
    page = render()
    for table in (*TABLES, *PAYLOADS):
        assert f"({table.size_bytes} bytes)" in page
        assert all(f"`{field.name}`" in page for field in table.fields)
    for member in (*Kind, *Flag):
        assert f"| {member.value} | `{member.name}` |" in page
    assert comments_of(Kind).keys() == Kind.__members__.keys()
    assert comments_of(Flag).keys() == Flag.__members__.keys()


def test_every_payload_class_that_a_kind_names_has_a_table() -> None:
    named = set(re.findall(r"`(ops\.\w+)`", " ".join(comments_of(Kind).values())))
    described = {
        re.findall(r"`(ops\.\w+)`", table.doc)[0] for table in PAYLOADS if "ops." in table.doc
    }
    assert named == described


def table(name: str) -> Table:
    [found] = [one for one in PAYLOADS if one.name.split()[-1] == name]
    return found


@given(st.builds(Created, names, u32, u32, u32, u64, st.binary(max_size=100)))
def test_the_layout_of_create_is_the_one_on_the_page(made: Created) -> None:
    head = table("CREATE").pack(
        mode=made.mode, uid=made.uid, gid=made.gid, rdev=made.rdev, name_length=len(made.name)
    )
    assert made.encode() == head + made.name + made.target


@given(st.builds(Renamed, names, u64.map(NodeId), names, u32, u64.map(NodeId)))
def test_the_layout_of_rename_is_the_one_on_the_page(moved: Renamed) -> None:
    head = table("RENAME").pack(
        new_parent=moved.new_parent,
        flags=moved.flags,
        other=moved.other,
        name_length=len(moved.name),
    )
    assert moved.encode() == head + moved.name + moved.new_name


@given(st.builds(Attributes, u32, u32, u32, u32, i64, i64))
def test_the_layout_of_setattr_is_the_one_on_the_page(given_attributes: Attributes) -> None:
    assert given_attributes.encode() == table("SETATTR").pack(**vars(given_attributes))


@given(st.builds(Actor, u32, u32, u32, u32, u32, st.binary(max_size=100)))
def test_the_layout_of_actor_is_the_one_on_the_page(actor: Actor) -> None:
    members = {name: value for name, value in vars(actor).items() if name != "command"}
    assert actor.encode() == table("ACTOR").pack(**members) + actor.command


@given(
    st.builds(
        Adopted,
        u64.map(NodeId),
        names,
        u32,
        u32,
        u32,
        u64,
        u64,
        i64,
        i64,
        i64,
        u64,
        u32,
        st.binary(max_size=100),
        st.lists(st.tuples(names, st.binary(max_size=50)), max_size=3).map(tuple),
    )
)
def test_the_layout_of_adopt_is_the_one_on_the_page(found: Adopted) -> None:
    members = dict(vars(found))
    name, target, xattrs = members.pop("name"), members.pop("target"), members.pop("xattrs")
    lengths = {"name_length": len(name), "target_length": len(target), "xattr_count": len(xattrs)}
    wanted = table("ADOPT").pack(**members, **lengths) + name + target
    for key, value in xattrs:
        head = table("attribute").pack(name_length=len(key), value_length=len(value))
        wanted += head + key + value
    assert found.encode() == wanted


@given(u64.map(NodeId), names)
def test_the_layout_of_adopt_name_is_the_one_on_the_page(parent: NodeId, name: bytes) -> None:
    assert encode_entry(parent, name) == table("ADOPT_NAME").pack(parent=parent) + name
