"""File 0 of a cartridge: the README, and the label that says who the cartridge is.

Duty: write and read it. What is read may be anything: blank, foreign, newer, damaged. Blocking; one
thread. It fits into one block, but for the smallest ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from blake3 import blake3

from tape.archive_source import Source
from tape.archive_writer import Output
from tape.errors import BadArchive, NewerCartridge, NoLabel
from tape.layout import FORMAT_VERSION, LABEL_NAME, README_NAME, Label
from tape.pax import BLOCK_BYTES, Header, padding, plain_header, read_header
from tape.readme import readme

_MAX_BYTES: Final = 1 << 20
"""Of README and label each."""


def write_label_archive(label: Label, out: Output) -> str:
    """Write file 0 in whole blocks; returns BLAKE3 of its bytes, in hexadecimal digits."""
    text = msgspec.json.format(msgspec.json.encode(label)) + b"\n"
    data = b""
    for name, content in ((README_NAME, readme(label).encode()), (LABEL_NAME, text)):
        data += plain_header(name, len(content), label.created_ns) + content
        data += padding(len(content))
    data += bytes(2 * BLOCK_BYTES)
    data += bytes(-len(data) % label.block_bytes)
    out.write(data)
    return blake3(data).hexdigest()


def read_label(blocks: Iterable[bytes]) -> Label:
    """Who the cartridge is, from its first bytes.

    NoLabel: blank, or a foreign cartridge. NewerCartridge. BadArchive: a label of ours, damaged.
    """
    source = Source(blocks)
    header = _header(source.read_first(BLOCK_BYTES))
    if header is None or header.name != README_NAME.encode():
        raise NoLabel(
            "what is on the cartridge is none of cdpfs's",
            blank=False,
            hint="if nobody needs it: cdpfs tape label --force",
        )
    _content(source, header)
    header = _header(source.read(BLOCK_BYTES))
    if header is None or header.name != LABEL_NAME.encode():
        raise NoLabel(
            "the cartridge begins with a README, but has no label of cdpfs",
            blank=False,
            hint="if nobody needs it: cdpfs tape label --force",
        )
    return _decoded(_content(source, header))


def _header(block: bytes) -> Header | None:
    try:
        return read_header(block, {})
    except BadArchive:
        return None


def _content(source: Source, header: Header) -> bytes:
    size = header.stored_bytes
    if size > _MAX_BYTES:
        raise BadArchive("the label is damaged: it is too large")
    found = source.read(size)
    source.read(len(padding(size)))
    return found


class _Version(msgspec.Struct):
    format_version: int


def _decoded(text: bytes) -> Label:
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise NewerCartridge(
                f"the cartridge is of format version {version}; this cdpfs knows {FORMAT_VERSION}"
            )
        label = msgspec.json.decode(text, type=Label)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadArchive(f"the label is damaged: {error}") from error
    if label.block_bytes % BLOCK_BYTES:
        raise BadArchive("the label is damaged: a block size that is none")
    return label
