"""What must hold of a replica: it is what its source is, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import zip_longest

from store.journal import Journal
from store.types import Lsn
from store.volume import Store
from tests.volume import Volume

MOST_LINES = 10
POLL_S = 0.02


def differences(source: Store, replica: Store, start: int = 1) -> list[str]:
    """How the batches that end at LSN `start` or later differ; [] if they are the same.

    Digests are compared, and the ops that each side reads.
    """
    with Journal(source) as ours, Journal(replica) as theirs:
        return list(_differences(ours, theirs, start))[:MOST_LINES]


def _differences(ours: Journal, theirs: Journal, start: int) -> Iterator[str]:
    with ours.snapshot() as here, theirs.snapshot() as there:
        pairs = zip_longest(here.batches(Lsn(start)), there.batches(Lsn(start)))
        for one, other in pairs:
            if one is None or other is None:
                longer = "source" if other is None else "replica"
                yield f"only the {longer} has {one or other}"
                return
            span = f"LSN {one.first_lsn} to {one.last_lsn}"
            if (one.first_lsn, one.last_lsn) != (other.first_lsn, other.last_lsn):
                yield f"{span} is {other.first_lsn} to {other.last_lsn} in the replica"
            elif one.digest != other.digest:
                yield f"{span} has another digest in the replica"
            elif here.read_batch(one)[1] != there.read_batch(other)[1]:
                yield f"{span} has other ops in the replica"


def newest_lsn(store: Store) -> int:
    """How far its journal has come."""
    with Journal(store) as journal:
        return int(journal.indexed_lsn)


def wait_until_replicated(volume: Volume) -> None:
    """The vault has all that a mounted volume has logged until now."""
    lsn = volume.sync()
    volume.call("replicate")
    while (volume.call("status")["replication"] or {}).get("acked_lsn", -1) < lsn:
        time.sleep(POLL_S)
