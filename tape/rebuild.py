"""A store made anew from the archives of a set, with nothing else at hand.

Duty: the tree of the full, then the batches of the log, into a store that begins at the full's
barrier (`store/baseline.py`): the same LSNs, NodeIds and digests as at the site. What comes from a
cartridge is checked here and there before it counts. Memory: the directories that lead to where it
is, the state beside the tree, one batch. Blocking; one thread.

Whatever cuts it short, the same archives again make the rest: a full begins anew, a log goes on
where it was. Until `finish`, and after it until the tree was made from the store, a mount is
refused: it would take an empty directory for what became of the volume.
"""

from __future__ import annotations

import stat
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from store.baseline import BaselineWriter
from store.baseline_state import MAX_STATE_BYTES
from store.batch import MAX_BATCH_BYTES, decode_header
from store.errors import UnsupportedFormat
from store.format import FORMAT_VERSION
from store.journal import Journal
from store.ops import Adopted
from store.relocation import Relocation, write_relocation
from store.types import NO_NODE, ROOT, Lsn, NodeId, TimeNs
from store.volume import Store, VolumeConfig, config_of
from tape.archive_reader import ArchiveReader, Member
from tape.errors import BadArchive, WrongCartridge
from tape.layout import ArchiveHead
from tape.pax import Header, Note

_ALL: Final = "give all archives of one set in their order"

COMMAND: Final = "cdpfs tape scan"
"""What makes a store by this, and goes on with one that was cut short."""

SOURCE: Final = "cartridges"
"""What the store says of where its journal comes from."""

NOTE: Final = Relocation(stage="fetching", source=SOURCE, line="main", command=COMMAND)
"""What the store says of itself while it is made, if nothing else is asked for."""

UNKNOWN_END: Final = (1 << 63) - 1
"""`foreign_lsn` until the end of the journal is there."""

_NAME_MAX: Final = 255
_TARGET_MAX: Final = 4096
_XATTR_MAX: Final = 64 << 10
_INT64: Final = 1 << 63


class Rebuilt(NamedTuple):
    """A store that was made from cartridges."""

    store: Store
    base_lsn: Lsn
    """Its history begins here."""
    end_lsn: Lsn
    lost: int
    """Files of which the full had not all of the content: it never was captured."""


class _Open(NamedTuple):
    """A directory on the way to where the walk is."""

    path: bytes
    node: NodeId


class Rebuild:
    """Makes the store at `root`. A context manager.

    `directory`: where the volume's tree will be; empty for where it was. `note`: what the store is
    to say of itself. Give it the archives of one set by `take`, in their order. VolumeExists when
    something else is at `root`; StoreFull.
    """

    def __init__(self, root: Path, directory: str = "", note: Relocation = NOTE) -> None:
        self._root = root
        self._directory = directory
        self._note = note
        self._store: Store | None = None
        self._writer: BaselineWriter | None = None
        self._set_id = ""
        self._part = 0
        """Of the full: which comes next."""
        self._whole = False
        self._way: list[_Open] = []
        self._file = NO_NODE
        self._state = b""
        self._base_lsn = Lsn(0)
        self._lost = 0
        if (root / "volume.toml").exists():
            self._open(Store.open(root))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is not committed. Closing twice is fine."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def begun(self) -> bool:
        """The full is in the store: what comes next is the log."""
        return self._writer is not None and self._writer.begun

    @property
    def next_lsn(self) -> Lsn:
        """What the log goes on with, once it is begun."""
        assert self._writer is not None
        return self._writer.position()[0]

    def _open(self, store: Store) -> None:
        self._store = store
        self._writer = BaselineWriter.open(store)

    def _create(self, head: ArchiveHead) -> BaselineWriter:
        """The store, when the first archive is there to tell what it is of."""
        if self._writer is None:
            config = _config(head, self._directory)
            store = Store.create(self._root, config)
            self._note = msgspec.structs.replace(self._note, set_id=head.set_id)
            write_relocation(store, self._note)
            self._open(store)
        assert self._writer is not None and self._store is not None
        if self._store.config.uuid != head.volume_uuid:
            raise WrongCartridge(
                f"the archive is of volume {head.volume_uuid}, and {self._root} of "
                f"{self._store.config.uuid}",
                "name another --store",
            )
        return self._writer

    # --- archives --------------------------------------------------------------------------------

    def take(self, archive: ArchiveReader) -> None:
        """The next archive of the set, read to its end and verified.

        A full that is in the store already is not read, and batches that are count as read.
        BadArchive when it does not follow; KeyMissing; BaselineError when it contradicts itself;
        StoreFull.
        """
        head = archive.head
        if head.kind == "full":
            if not self.begun:
                self._take_full(archive)
        elif head.kind == "log":
            self._take_log(archive)

    def _take_full(self, archive: ArchiveReader) -> None:
        head = archive.head
        if head.part == 0:
            self._set_id, self._part, self._whole = head.set_id, 0, False
            self._way, self._lost, self._state = [], 0, b""
        if head.set_id != self._set_id or head.part != self._part or self._whole:
            raise BadArchive(
                f"part {head.part + 1} of a full came where part {self._part + 1} is needed",
                _ALL,
            )
        writer: BaselineWriter | None = None
        for member in archive.members():
            if writer is None:
                writer = self._create(archive.head)
                if head.part == 0:
                    self._base_lsn = Lsn(head.first_lsn)
                    writer.start(self._base_lsn, TimeNs(head.time_ns))
            if member.kind == "entry":
                self._entry(writer, member)
            elif member.kind == "state":
                self._state = member.data(MAX_STATE_BYTES)
        self._part += 1
        self._whole = archive.written.end.last_part

    def _take_log(self, archive: ArchiveReader) -> None:
        writer = self._writer
        if writer is None or not (self._whole or self.begun):
            raise BadArchive("a log came before the full that it belongs to", _ALL)
        for member in archive.members():
            if member.kind == "batch":
                self._batch(writer, member.data(MAX_BATCH_BYTES))
        if writer.begun:
            writer.commit()

    def _batch(self, writer: BaselineWriter, data: bytes) -> None:
        try:
            header = decode_header(data)
        except ValueError as error:
            raise BadArchive(f"a batch on a cartridge is damaged: {error}") from error
        if writer.begun:
            if header.last_lsn >= self.next_lsn:
                writer.append(data)
        elif header.last_lsn >= self._base_lsn:
            writer.finish(data, self._state)

    def finish(self) -> Rebuilt:
        """What came is all: the store is complete as far as it goes.

        BadArchive when the log does not reach as far as the full needs it.
        """
        store, writer = self._store, self._writer
        if store is None or writer is None or not writer.begun:
            raise BadArchive("the set has no log behind its full, or no full", _ALL)
        writer.commit()
        end = Lsn(self.next_lsn - 1)
        self.close()
        with Journal(store) as journal, journal.snapshot() as snapshot:
            baseline = snapshot.baseline
        assert baseline is not None
        if end < baseline.end_lsn:
            raise BadArchive(
                f"the log ends at LSN {end}, and the full needs it up to {baseline.end_lsn}", _ALL
            )
        store.config.foreign_lsn = end
        store.save_config()
        write_relocation(store, msgspec.structs.replace(self._note, stage="restoring"))
        return Rebuilt(store, baseline.lsn, end, self._lost)

    # --- entries ---------------------------------------------------------------------------------

    def _entry(self, writer: BaselineWriter, member: Member) -> None:
        header, note = member.header, member.header.note
        assert note is not None
        node = NodeId(note.node)
        if note.part:
            if node != self._file:
                raise BadArchive("a part of a file that is not behind its first part")
            self._content(writer, node, note, member)
            return
        is_directory = stat.S_ISDIR(header.facts.mode) and header.link is None
        if is_directory and self._is_repeated(_Open(member.path, node)):
            return
        parent, name = self._place(member.path, node)
        if header.link is not None:
            writer.name(node, parent, name)
            return
        writer.node(node, _adopted(parent, name, header, member, note), lost=note.lost)
        if is_directory:
            self._way.append(_Open(member.path, node))
        self._lost += note.lost
        self._content(writer, node, note, member)

    def _content(self, writer: BaselineWriter, node: NodeId, note: Note, member: Member) -> None:
        self._file = node
        for at, data in member.pieces():
            writer.data(node, note.offset + at, data)

    def _is_repeated(self, directory: _Open) -> bool:
        """Each archive begins with the directories that lead on from the one before.

        They come from the root on: the deeper ones stay until something beside them comes.
        """
        return directory in self._way

    def _place(self, path: bytes, node: NodeId) -> tuple[NodeId, bytes]:
        """The directory that a path is in, and its name there."""
        if not path:
            if node != ROOT:
                raise BadArchive(f"the root of the volume is node {node}")
            return NO_NODE, b""
        folder, _, name = path.rpartition(b"/")
        while self._way and self._way[-1].path != folder:
            self._way.pop()
        if not self._way:
            raise BadArchive("a member whose directory did not come before it")
        if len(name) > _NAME_MAX:
            raise BadArchive(f"a name of {len(name)} bytes")
        return self._way[-1].node, name


def _adopted(parent: NodeId, name: bytes, header: Header, member: Member, note: Note) -> Adopted:
    """What the baseline says of a node. BadArchive for what no node can have."""
    facts = header.facts
    is_file = stat.S_ISREG(facts.mode)
    size = note.file_bytes if note.parts > 1 else member.size_bytes
    times = facts.atime_ns, facts.mtime_ns, facts.ctime_ns
    sound = (
        all(-_INT64 <= time_ns < _INT64 for time_ns in times)
        and note.links < 1 << 32
        and len(facts.target) <= _TARGET_MAX
        and all(
            0 < len(key) <= _NAME_MAX and len(value) <= _XATTR_MAX for key, value in facts.xattrs
        )
    )
    if not sound:
        raise BadArchive(f"node {note.node} has attributes that none can have")
    return Adopted(
        parent,
        name,
        facts.mode,
        facts.uid,
        facts.gid,
        facts.rdev,
        size if is_file else 0,
        *times,
        0,
        note.links,
        facts.target,
        facts.xattrs,
    )


def _config(head: ArchiveHead, directory: str) -> VolumeConfig:
    """The settings of the new store: those of the site, for the directory that was asked for.

    Until it is complete nobody may take it for a volume that can be mounted.
    """
    version = head.settings.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"the volume has format version {version}; this cdpfs knows {FORMAT_VERSION}"
        )
    try:
        config = config_of(head.settings)
    except msgspec.ValidationError as error:
        raise BadArchive(f"the settings in the full can't be used: {error}") from error
    if config.uuid != head.volume_uuid:
        raise BadArchive("the settings in the full are those of another volume")
    if directory:
        config.directory, config.mount_at = directory, ""
    config.foreign_lsn = UNKNOWN_END
    return config
