"""The byte tables of everything that a store keeps on disk. Pure; any thread; no I/O.

Each `Table` is one fixed-size little-endian structure (`docs/format.md` is generated from them, see
`store/format_doc.py`). Hot paths use the tables' compiled `struct` directly. LMDB keys, whose byte
order must be their sort order, are big-endian and have their own functions at the end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

FORMAT_VERSION = 1
"""Version of every file of a store; a store of a newer one is refused by name."""

FEATURE_GAPS = 1
"""Mandatory-feature bit of ring files and batches that hold a GAP op: a reader that does not know
it would take what the tree became in a gap for what happened at its end."""

FEATURE_FOLDED = 2
"""Mandatory-feature bit of batches of a replica that hold FOLDED ops: a reader that does not know
it would show moments whose content was left out. In such a batch `digest` is that of the batch as
the site has it, so that the chain stays the site's; the digest of what is really in it follows the
frame directory (32 bytes)."""

FEATURE_BASELINE = 8
"""Mandatory-feature bit of baseline batches, which describe the tree with which the history of a
copy begins, and of the batch behind them, which begins with the BASELINE op: a reader that does not
know it would take the description for history. The digest of what is in the batch follows the frame
directory (32 bytes). In the batch with the BASELINE op `digest` is that of the batch as the site
has it, which began earlier, so that the chain goes on as the site's; `previous` is the digest of
the last baseline batch, and the LSN jumps from the one to the other. (The bit 4 means nothing and
never will: golden files have it for one that nobody knows.)"""

KNOWN_FEATURES = FEATURE_GAPS | FEATURE_FOLDED | FEATURE_BASELINE
"""Mandatory-feature bits that this version understands; a file with any other is refused."""

CHUNK_BYTES = 1 << 20
"""Size of a content region and of a base chunk: seeding and the extent index share the grid."""

FRAME_BYTES = 128 << 10
"""Raw bytes of payload compressed into one frame of a batch at the most (a larger op is split)."""

MAX_PAYLOAD_BYTES = (1 << 20) + 4096
"""Largest payload of one op: a 1 MiB write request, with room for attributes of an adopt op."""

TIME_STEP_NS = 10_000
"""Ops are stamped in steps of so much, since nanoseconds that tell nothing would be most of what a
transaction takes on a thin line. What comes within a step gets a nanosecond more than its
predecessor. The kernel's own file times go in steps of 1 to 10 ms."""

ALIGN = 8
"""Records of the intake log start at multiples of this."""

MANY_UNSYNCED = 65535
"""`unsynced` of a record when there are that many ops or more that may not be on disk."""


@dataclass(frozen=True)
class Field:
    """One member of a table: its name, `struct` code and meaning."""

    name: str
    code: str
    doc: str

    @property
    def size_bytes(self) -> int:
        """Bytes that the member takes."""
        return struct.calcsize("<" + self.code)


@dataclass(frozen=True)
class Table:
    """A fixed-size structure: `pack` and `unpack` by field order, little-endian, no padding."""

    name: str
    doc: str
    fields: tuple[Field, ...]

    @property
    def codec(self) -> struct.Struct:
        """The compiled structure (callers on hot paths keep it)."""
        return struct.Struct("<" + "".join(field.code for field in self.fields))

    @property
    def size_bytes(self) -> int:
        """Bytes that the structure takes."""
        return self.codec.size

    def pack(self, **values: int | bytes) -> bytes:
        """Encode; every field must be given by name."""
        assert values.keys() == {field.name for field in self.fields}, (self.name, values.keys())
        return self.codec.pack(*(values[field.name] for field in self.fields))

    def unpack(self, data: bytes | memoryview, offset: int = 0) -> dict[str, Any]:
        """Decode the structure at `offset`; struct.error when `data` is too short."""
        names = (field.name for field in self.fields)
        return dict(zip(names, self.codec.unpack_from(data, offset), strict=True))


RING_MAGIC = b"CDPRING\0"
SEGMENT_MAGIC = b"CDPSEGM\0"
BATCH_MAGIC = b"CDPBATCH"

RING_HEADER_BYTES = 4096
"""Space before the first record of a ring file; the header table stands at its start."""

RING_HEADER = Table(
    "ring file header",
    "First bytes of each intake file; rewritten when the file is recycled.",
    (
        Field("magic", "8s", "`CDPRING\\0`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("generation", "I", "grows by one each time a ring file is taken into use"),
        Field("volume", "16s", "the volume's UUID"),
        Field("first_lsn", "Q", "LSN of the first record in this generation"),
        Field("file_bytes", "Q", "size of the file, header included"),
        Field("check", "Q", "xxh3-64 of the bytes before this field"),
    ),
)

RECORD = Table(
    "intake record",
    "One op in the intake log, followed by `length` payload bytes, then padding to 8. A record "
    "never spans two files; where the next one does not fit, the log goes on in the next file.",
    (
        Field("check", "I", "low 32 bits of xxh3-64 of the header bytes after this field"),
        Field("generation", "I", "that of the ring file: tells new records from recycled ones"),
        Field("kind", "B", "see the op kinds"),
        Field("flags", "B", "see the op flags"),
        Field(
            "unsynced",
            "H",
            "ops, this one included, that were not known to be on disk when it was appended; 65535 "
            "stands for more, too; 0: not stated (older logs)",
        ),
        Field("length", "I", "payload bytes"),
        Field("lsn", "Q", "log sequence number; each record has its predecessor's plus one"),
        Field(
            "time_ns",
            "Q",
            "nanoseconds since the epoch, UTC, in steps of 10 µs (older logs: of 1 ns); strictly "
            "increasing: at least its predecessor's plus one",
        ),
        Field("node", "Q", "NodeId that the op is about, 0 for none"),
        Field("offset", "Q", "meaning by kind: file offset, new size, parent node, LSN …"),
        Field("payload_xxh3", "Q", "xxh3-64 of the payload"),
        Field("actor", "Q", "LSN of the actor op that names who did it, 0 for cdpfs itself"),
    ),
)

SEGMENT_HEADER = Table(
    "segment header",
    "First bytes of each segment; batches follow back to back.",
    (
        Field("magic", "8s", "`CDPSEGM\\0`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("reserved", "I", "0"),
        Field("volume", "16s", "the volume's UUID"),
        Field("first_lsn", "Q", "first LSN of its first batch"),
        Field("check", "Q", "xxh3-64 of the bytes before this field"),
    ),
)

BATCH_HEADER = Table(
    "batch header",
    "Start of a batch: a run of consecutive ops. Then the frame directory, then the op metadata "
    "(one zstd frame), then the payload frames.",
    (
        Field("magic", "8s", "`CDPBATCH`"),
        Field("version", "H", "format version"),
        Field("features", "H", "mandatory-feature bits; unknown ones are refused"),
        Field("op_count", "I", "ops in the batch"),
        Field("first_lsn", "Q", "LSN of the first op"),
        Field("last_lsn", "Q", "LSN of the last op"),
        Field("first_time_ns", "Q", "time of the first op"),
        Field("last_time_ns", "Q", "time of the last op"),
        Field("total_bytes", "Q", "bytes of the whole batch, this header included"),
        Field("payload_bytes", "Q", "raw payload bytes of all its ops"),
        Field("frame_count", "I", "entries of the frame directory"),
        Field("meta_stored_bytes", "I", "stored size of the op metadata"),
        Field("meta_raw_bytes", "I", "raw size of the op metadata"),
        Field("reserved", "I", "0"),
        Field("meta_xxh3", "Q", "xxh3-64 of the stored op metadata"),
        Field("previous", "32s", "digest of the preceding batch; zeros for a volume's first"),
        Field(
            "digest",
            "32s",
            "blake3 over `previous`, the raw metadata, then the raw payload (with the feature "
            "folded, or where a history begins: as they are at the site)",
        ),
        Field("check", "Q", "xxh3-64 of this header before this field and the frame directory"),
    ),
)

FRAME = Table(
    "frame directory entry",
    "One run of raw payload bytes of the batch, independently readable.",
    (
        Field("stored_bytes", "I", "bytes in the segment"),
        Field("raw_bytes", "I", "bytes after decompression"),
        Field("codec", "I", "0 stored raw, 1 zstd"),
        Field("reserved", "I", "0"),
        Field("xxh3", "Q", "xxh3-64 of the stored bytes"),
    ),
)

OP_META = Table(
    "op metadata entry",
    "One op inside a batch; the entries stand back to back, their payloads, in the same order, "
    "make up the raw payload of the frames.",
    (
        Field("kind", "B", "see the op kinds"),
        Field("flags", "B", "see the op flags"),
        Field("reserved", "H", "0"),
        Field("length", "I", "payload bytes"),
        Field("lsn", "Q", "log sequence number"),
        Field("time_ns", "Q", "time"),
        Field("node", "Q", "NodeId"),
        Field("offset", "Q", "by kind, as in the intake record"),
        Field("payload_xxh3", "Q", "xxh3-64 of the payload, as computed on the way in"),
        Field("actor", "Q", "LSN of the actor op"),
    ),
)

TABLES = (RING_HEADER, RECORD, SEGMENT_HEADER, BATCH_HEADER, FRAME, OP_META)


class Kind(IntEnum):
    """What an op is. The comment says what `node`, `offset` and the payload hold."""

    WRITE = 1  # node; file offset; the bytes
    TRUNCATE = 2  # node; new size
    CREATE = 3  # new node; parent node; `ops.Created`
    LINK = 4  # node; parent node; name
    UNLINK = 5  # node that loses the name (also rmdir); parent node; name
    RENAME = 6  # moved node; old parent node; `ops.Renamed`
    SETATTR = 7  # node; 0; `ops.Attributes`
    SETXATTR = 8  # node; length of the name; name, then value
    REMOVEXATTR = 9  # node; 0; name
    FSYNC = 10  # node; 0; nothing
    CLOSE = 11  # node; 0; nothing: a handle that wrote was released
    MARK = 12  # 0; 0; the mark's name
    ACTOR = 13  # 0; 0; `ops.Actor`
    ABORT = 14  # 0; LSN of the op whose backing call failed: it never happened
    ADOPT = 15  # node; `since` LSN; `ops.Adopted`: what was there before cdpfs, seen at `since`
    ADOPT_NAME = 16  # known node; `since`; parent node (8 bytes), name: a further hard link
    BASE = 17  # node; file offset; content of that chunk as of the node's `since`
    DIR_SEEDED = 18  # directory node; 0: every name that it had at `since` is adopted
    SEEDED = 19  # 0; 0: the whole tree is in the journal
    MOUNT = 20  # 0; 0; `{"version", "boot"}` as JSON: a session begins
    CLEAN = 21  # 0; wall time in ns: a session ends in order, the backing tree is on disk
    CHECKPOINT = 22  # 0; LSN up to which the tree is on disk; `{"boot", "time_ns"}` as JSON
    GAP = 23  # 0; wall time in ns when it began; `ops.Gap`: changes since then went unlogged
    FOLDED = 24  # node; end of a write whose bytes a replica was not sent; nothing, or `ops.Folded`
    BASELINE = 25  # highest NodeId; LSN up to which groups are stated, or 0; name of a mark, if any
    BASELINE_ROWS = 26  # 0; 0; entries of `baseline_state`: groups and points at the beginning


class Flag(IntFlag):
    """Flags of an op."""

    EXTERNAL = 1  # found in the backing tree, not made through the mount
    LAST = 2  # of BASE: with it the node's content is wholly in the journal
    DATASYNC = 4  # of FSYNC: fdatasync
    REPAIR = 8  # made by recovery
    DIRECTORY = 16  # of UNLINK: rmdir
    UNLOGGED = 32  # with EXTERNAL: made through the mount, in a gap of the log
    SYNCHRONOUS = 32  # of WRITE: through O_SYNC or O_DSYNC, durable when it returned
    BASELINE = 64  # describes what there was where the history of a copy begins
    LOST = 4  # of ADOPT with BASELINE: chunks without any content were never captured, not empty


INDEX_VERSION = 3
"""Version of the LMDB tables: an index of another version is rebuilt from the segments."""


def key_lsn(lsn: int) -> bytes:
    """Key of the tables in LSN order: 8 bytes, big-endian."""
    return lsn.to_bytes(8, "big")


_NODE_LSN = struct.Struct(">QQ")


def key_node_lsn(node: int, lsn: int) -> bytes:
    """Key of the node history: node, LSN."""
    return _NODE_LSN.pack(node, lsn)


def key_name_lsn(directory: int, name: bytes, lsn: int) -> bytes:
    """Key of the name history: directory, name, NUL, LSN (names hold no NUL, so it is exact)."""
    return b"%b%b\0%b" % (directory.to_bytes(8, "big"), name, lsn.to_bytes(8, "big"))


_EXTENT = struct.Struct(">QQIQ")


def key_extent(node: int, generation: int, region: int, lsn: int) -> bytes:
    """Key of the content history: node, content generation (an LSN), 1 MiB region number, LSN."""
    return _EXTENT.pack(node, generation, region, lsn)
