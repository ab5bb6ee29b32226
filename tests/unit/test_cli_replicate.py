"""What `cdpfs replicate status` says of a volume that nothing replicates at the moment."""

from __future__ import annotations

from pathlib import Path

from console.replicating import from_store
from replicator.settings import LinkSettings, ReplicaSettings, save_settings
from replicator.status import ReplicaStatus, write_status
from tests.unit.shipping import all_batches, make_history


def test_what_was_written_after_the_last_words_of_the_replicator_counts_as_lag(
    tmp_path: Path,
) -> None:
    store = make_history(tmp_path / "site")
    save_settings(store.root, ReplicaSettings(link=LinkSettings(url="https://vault:8443")))
    batches = all_batches(store)
    acked, newest = batches[3].ops[-1].lsn, batches[-1].ops[-1].lsn
    write_status(store.root, ReplicaStatus(state="idle", acked_lsn=acked, indexed_lsn=acked))
    said = from_store(store)
    assert said is not None
    assert (said["state"], said["acked_lsn"], said["indexed_lsn"]) == ("down", acked, newest)
    assert said["lag_bytes"] == sum(len(op.payload) for one in batches[4:] for op in one.ops)
    assert said["lag_s"] > 0
    write_status(store.root, ReplicaStatus(state="idle", acked_lsn=newest, lag_s=9.0, lag_bytes=7))
    said = from_store(store)
    assert said is not None
    assert (said["lag_bytes"], said["lag_s"]) == (0, 0.0)
