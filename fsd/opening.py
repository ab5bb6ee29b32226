"""Is this store one to go on with? Looked at before anything is started or changed.

Duty: where the journal and the intake log end, and whether the one goes on where the other does.
Blocking; any thread.
"""

from __future__ import annotations

from store.errors import BadSettings, DamagedError, IndexStale, IntakeGap, RecoveryUnfinished
from store.journal import Journal
from store.segment import list_segments
from store.tail import EndOfLog, IntakeTail
from store.types import Lsn
from store.volume import MIN_RING_FILE_BYTES, Store

LOG_HINT = (
    "nothing was touched. To go on without what can't be read: move the folder `intake` of the "
    "store away and mount again; what the directory has then counts as changed from outside"
)


def check_settings(store: Store) -> None:
    """BadSettings when the volume's settings can't work."""
    if store.config.replica:
        raise BadSettings(
            f"{store.root} is a replica: what is written belongs where its log comes from",
            "to look at it: cdpfs vault mount --root R VOLUME MNT",
        )
    size = store.config.ring_file_bytes
    if size < MIN_RING_FILE_BYTES:
        raise BadSettings(
            f"{store.root}: ring files of {size} bytes are too small",
            f"set ring_file_bytes in volume.toml to {MIN_RING_FILE_BYTES} or more",
        )


def indexed_lsn(store: Store) -> Lsn:
    """The newest op that the index holds. DamagedError, UnsupportedFormat.

    RecoveryUnfinished when that is not as far as what was told of a copy's beginning.
    """
    with Journal(store) as journal, journal.snapshot() as snapshot:
        begin, indexed = snapshot.baseline, snapshot.indexed_lsn
    if begin is not None and indexed < begin.end_lsn:
        raise RecoveryUnfinished(
            f"the journal of this copy ends at LSN {indexed}, and is known to go on to LSN "
            f"{begin.end_lsn}",
            "make the copy again, with all that belongs to it",
        )
    return indexed


def end_of_log(store: Store, indexed: Lsn) -> EndOfLog:
    """Where the intake log ends, which must go on where the index ends.

    DamagedError when it is broken before its end; IndexStale when the segments know more than
    the index, and the log can't fill the gap; UnsupportedFormat.
    """
    tail = IntakeTail(store)
    try:
        end = tail.end_of_log(indexed)
        if end.damaged:
            place = end.ring.path if end.ring else store.intake_dir
            what = f"the intake log is damaged: {end.damaged}, yet it breaks off"
            raise DamagedError(place, end.position, what, end.lsn + 1, end.lsn + 1)
        if end.lsn > indexed:
            tail.seek(Lsn(indexed + 1))
        _refuse_stale_index(store, indexed, end)
    except DamagedError as error:
        if isinstance(error, IntakeGap):
            _refuse_stale_index(store, indexed, EndOfLog(None, 0, Lsn(0), end.time_ns))
        error.hint = LOG_HINT
        raise
    finally:
        tail.close()
    return end


def _refuse_stale_index(store: Store, indexed: Lsn, end: EndOfLog) -> None:
    """An open segment may be ahead of the index while there is a log.

    Then either the log has the same ops, or a power cut took them from it: they were never
    promised, and the indexer drops them from the segment.
    """
    has_log = end.ring is not None or any(store.intake_dir.glob("*.ring"))
    for file in list_segments(store):
        last = file.last_lsn if file.last_lsn is not None else file.first_lsn
        if last > indexed and (file.last_lsn is not None or not has_log):
            raise IndexStale(f"the index ends at LSN {indexed}, but {file.path.name} goes on")
