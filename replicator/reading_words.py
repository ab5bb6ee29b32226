"""What messages of `replicator.reading_wire` say, as the rest of cdpfs has it. Pure."""

from __future__ import annotations

from replicator.reading_wire import (
    ChangeMessage,
    CompanionMessage,
    DeletedMessage,
    PointMessage,
    State,
    VersionMessage,
    actor_of,
    decode_name,
    node_state,
)
from store.journal import NodeState
from store.types import Lsn, NodeId, TimeNs
from timetravel.companions import Companion
from timetravel.deleted import Deleted
from timetravel.diff import Change, ChangeKind, Part
from timetravel.grade import Grade
from timetravel.history import Event, Version
from timetravel.resolve import ResolvedPoint
from timetravel.standing import GroupStanding


def point_of(said: PointMessage) -> ResolvedPoint:
    """What a moment came to."""
    groups = tuple(
        GroupStanding(
            decode_name(group.title),
            tuple(decode_name(name) for name in group.names),
            group.clean,
            Grade.of(group.grade),
            Lsn(group.point_lsn),
            group.reason,
        )
        for group in said.groups
    )
    return ResolvedPoint(
        Lsn(said.lsn),
        TimeNs(said.time_ns),
        Grade.of(said.grade),
        said.reason,
        said.asked,
        said.note,
        Lsn(said.asked_lsn),
        said.back_ns,
        groups,
        said.group_count,
        said.open_count,
    )


def companion_of(said: CompanionMessage) -> Companion:
    """A file that belongs to another."""
    return Companion(
        decode_name(said.path), _state(said.then), _state(said.now), said.matters, said.differs
    )


def version_of(said: VersionMessage) -> Version:
    """A version of a path."""
    return Version(
        Lsn(said.first),
        Lsn(said.last),
        TimeNs(said.first_time_ns),
        TimeNs(said.last_time_ns),
        NodeId(said.node),
        actor_of(said.actor),
        tuple(map(Event, said.events)),
        said.written_bytes,
        said.ops,
        said.size_bytes,
        decode_name(said.other_name),
    )


def change_of(said: ChangeMessage) -> Change:
    """A difference between two moments."""
    parts = Part.NONE
    for name in said.parts:
        parts |= Part[name]
    return Change(
        ChangeKind(said.kind),
        decode_name(said.path),
        decode_name(said.old_path),
        _state(said.old),
        _state(said.new),
        parts,
    )


def deleted_of(said: DeletedMessage) -> Deleted:
    """Something that was deleted; of a directory `restore_lsn` is before all of it was."""
    return Deleted(
        decode_name(said.path),
        node_state(said.state),
        Lsn(said.removed_lsn),
        TimeNs(said.removed_time_ns),
        actor_of(said.actor),
        Lsn(said.restore_lsn),
    )


def _state(said: State | None) -> NodeState | None:
    return None if said is None else node_state(said)
