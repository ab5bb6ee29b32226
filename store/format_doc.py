"""Writes docs/format.md out of the code that defines the formats.

    python -m store.format_doc            writes the page
    python -m store.format_doc --check    exits 1 unless the page is what would be written

Duty: byte tables from `store.format`, the comments of op kinds and flags, the tables of the index
from `index_env`, and the payload layouts, which stand here and are held against `store.ops` by a
test. The prose about the folder and the order of writes is in `format_text`.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from pathlib import Path

from store import format as byte_format
from store import format_text
from store.format import TABLES, Field, Flag, Kind, Table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "format.md"
_SOURCES = Path(__file__).resolve().parent

PAYLOADS = (
    Table(
        "payload of CREATE",
        "`ops.Created`. Then the name, then the target of a symbolic link (the rest).",
        (
            Field("mode", "I", "file type and permission bits"),
            Field("uid", "I", "owner"),
            Field("gid", "I", "group"),
            Field("rdev", "Q", "device number of special files, else 0"),
            Field("name_length", "H", "bytes of the name"),
        ),
    ),
    Table(
        "payload of RENAME",
        "`ops.Renamed`. Then the old name, then the new name (the rest).",
        (
            Field("new_parent", "Q", "NodeId of the directory that gets the name"),
            Field("flags", "I", "1 NOREPLACE, 2 EXCHANGE, as of renameat2(2)"),
            Field("other", "Q", "NodeId that is replaced or exchanged, 0 for none"),
            Field("name_length", "H", "bytes of the old name"),
        ),
    ),
    Table(
        "payload of SETATTR",
        "`ops.Attributes`. Those members count whose bit is in the mask.",
        (
            Field("mask", "I", "1 mode, 2 uid, 4 gid, 8 atime, 16 mtime"),
            Field("mode", "I", "permission bits only (07777)"),
            Field("uid", "I", "owner"),
            Field("gid", "I", "group"),
            Field("atime_ns", "q", "time of last access"),
            Field("mtime_ns", "q", "time of last change of the content"),
        ),
    ),
    Table(
        "payload of ACTOR",
        "`ops.Actor`. Then the command's name (the rest).",
        (
            Field("uid", "I", "user"),
            Field("gid", "I", "group"),
            Field("pid", "I", "process"),
            Field("parent_pid", "I", "its parent"),
            Field("session", "I", "its session"),
        ),
    ),
    Table(
        "payload of ADOPT",
        "`ops.Adopted`. Then the name (empty for the root), the target of a symbolic link, and the "
        "extended attributes, each with the head that follows here, its name and its value.",
        (
            Field("parent", "Q", "NodeId of the directory, 0 for the root"),
            Field("mode", "I", "file type and permission bits"),
            Field("uid", "I", "owner"),
            Field("gid", "I", "group"),
            Field("rdev", "Q", "device number of special files, else 0"),
            Field("size_bytes", "Q", "size; counts for regular files only"),
            Field("atime_ns", "q", "time of last access"),
            Field("mtime_ns", "q", "time of last change of the content"),
            Field("ctime_ns", "q", "time of last change of the attributes"),
            Field("inode", "Q", "st_ino of the backing file"),
            Field("links", "I", "st_nlink"),
            Field("name_length", "H", "bytes of the name"),
            Field("target_length", "H", "bytes of the target"),
            Field("xattr_count", "H", "extended attributes that follow"),
        ),
    ),
    Table(
        "head of an extended attribute",
        "Inside ADOPT only.",
        (
            Field("name_length", "H", "bytes of the name"),
            Field("value_length", "I", "bytes of the value"),
        ),
    ),
    Table(
        "payload of GAP",
        "`ops.Gap`. Then the reason in UTF-8 (the rest).",
        (
            Field("ended_ns", "Q", "wall time when changes were logged again"),
            Field("found", "B", "1: found at a mount, after the daemon had ended in the gap"),
        ),
    ),
    Table(
        "payload of FOLDED",
        "`ops.Folded`. Only the last FOLDED op of a batch has one.",
        (
            Field("first", "Q", "LSN of the batch's first FOLDED op"),
            Field("until", "Q", "LSN from which on states are to be had again"),
            Field("writes", "I", "FOLDED ops in the batch"),
            Field("points", "I", "recovery points that the site had in between"),
        ),
    ),
    Table(
        "entry in the payload of BASELINE_ROWS",
        "`baseline_state.Entry`. Then the key and the row of the index; entries are back to back.",
        (
            Field("kind", "B", "2: `groups`, 3: `barriers`, 4: `points`, 5: `points`, not listed"),
            Field("key_length", "I", "bytes of the key"),
            Field("row_length", "I", "bytes of the row"),
        ),
    ),
    Table(
        "payload of ADOPT_NAME",
        "Then the name (the rest).",
        (Field("parent", "Q", "NodeId of the directory"),),
    ),
)
"""Fixed-size beginnings of the payloads that have one."""

_CODES = {
    "B": "u8",
    "H": "u16",
    "I": "u32",
    "Q": "u64",
    "q": "i64",
}


def render() -> str:
    """The whole page."""
    parts = [
        format_text.INTRODUCTION,
        "## Constants\n",
        _constants(),
        "## Byte tables\n",
        *(table_text(table) for table in TABLES),
        "## Op kinds\n",
        format_text.KINDS,
        _kinds(),
        "## Op flags\n",
        _flags(),
        "## Payloads\n",
        format_text.PAYLOADS,
        *(table_text(table) for table in PAYLOADS),
        "## Index\n",
        format_text.INDEX,
        _index_tables(),
        format_text.ORDER,
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def table_text(table: Table) -> str:
    """One byte table as a section of a page."""
    rows = []
    at = 0
    for field in table.fields:
        code = _CODES.get(field.code) or f"{field.size_bytes} bytes"
        rows.append((str(at), code, f"`{field.name}`", field.doc))
        at += field.size_bytes
    head = f"### {table.name[0].upper()}{table.name[1:]} ({table.size_bytes} bytes)\n"
    return "\n".join((head, table.doc + "\n", _rows(("offset", "type", "field", "meaning"), rows)))


def _constants() -> str:
    names = (
        "FORMAT_VERSION",
        "FEATURE_GAPS",
        "FEATURE_FOLDED",
        "FEATURE_BASELINE",
        "KNOWN_FEATURES",
        "INDEX_VERSION",
        "RING_HEADER_BYTES",
        "ALIGN",
        "MAX_PAYLOAD_BYTES",
        "FRAME_BYTES",
        "CHUNK_BYTES",
    )
    docs = _documented_names(_SOURCES / "format.py")
    rows = [(f"`{name}`", f"{getattr(byte_format, name):,}", docs.get(name, "")) for name in names]
    return _rows(("name", "value", "meaning"), rows)


def _documented_names(path: Path) -> dict[str, str]:
    """Names at the top of a module (or in its classes) with the string that stands below each."""
    found = {}
    tree = ast.parse(path.read_text("utf-8"))
    bodies = [tree.body] + [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    for body in bodies:
        for node, below in itertools.pairwise(body):
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.AnnAssign):
                target = node.target
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(target, ast.Name) and documented:
                assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                found[target.id] = " ".join(str(below.value.value).split())
    return found


def comments_of(members: type[IntEnum] | type[IntFlag]) -> dict[str, str]:
    """The comment behind each member of an enumeration of `store.format`."""
    source = (_SOURCES / "format.py").read_text("utf-8")
    body = source.split(f"class {members.__name__}(", 1)[1].split("\n\n\n", 1)[0]
    return {
        match[1]: match[2].strip()
        for match in re.finditer(r"^    ([A-Z_]+) = \d+  # (.+)$", body, re.MULTILINE)
    }


def _kinds() -> str:
    comments = comments_of(Kind)
    rows = []
    for kind in Kind:
        node, offset, payload = ([*comments[kind.name].split("; ", 2), "", ""])[:3]
        rows.append((str(kind.value), f"`{kind.name}`", node, offset, payload))
    return _rows(("kind", "name", "node", "offset", "payload, meaning"), rows)


def _flags() -> str:
    comments = comments_of(Flag)
    named = Flag.__members__.items()  # with those that share a bit
    rows = [(str(flag.value), f"`{name}`", comments[name]) for name, flag in named]
    return _rows(("bit", "name", "meaning"), rows)


def _index_tables() -> str:
    source = ast.parse((_SOURCES / "index_env.py").read_text("utf-8"))
    [tables] = [n for n in source.body if isinstance(n, ast.ClassDef) and n.name == "Tables"]
    docs = _documented_names(_SOURCES / "index_env.py")
    names = [
        node.target.id
        for node in tables.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    return _rows(("table", "rows"), [(f"`{name}`", docs[name]) for name in names])


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    return keep_page(PAGE, render(), "store.format_doc", arguments)


def keep_page(path: Path, page: str, module: str, arguments: list[str]) -> int:
    """Write a generated page, or `--check` that it is current; the exit code of `module`."""
    if arguments == ["--check"]:
        if path.exists() and path.read_text("utf-8") == page:
            return 0
        print(f"{path.name} is not current: run python -m {module}", file=sys.stderr)
        return 1
    if arguments:
        print(f"usage: python -m {module} [--check]", file=sys.stderr)
        return 2
    path.parent.mkdir(exist_ok=True)
    path.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
