"""Lines of a sealed volume part where a shipment ends: the vault can't look further."""

from __future__ import annotations

from pathlib import Path

from replicator.vault.lines import find_common, list_lines, make_line
from replicator.vault.root import VaultRoot
from replicator.vault.sealed import SealedLine
from replicator.vault.sealed_files import verify_sealed
from replicator.wire import Description, Mark, NewLine
from tests.unit.sealed_history import UUID, History

SEALED = Description(name="branch", directory="/branch", created_ns=1, sealed=True)


def test_a_sealed_line_parts_at_the_end_of_any_shipment(tmp_path: Path) -> None:
    root = VaultRoot.create(tmp_path / "vault")
    root.lock()
    root.create_volume("branch", UUID, SEALED)
    main = SealedLine.open(root.store(UUID), pack_bytes=4000, few=4)
    history, marks = History(7), []
    for _ in range(40):
        main.take(history.shipment())
        lsn, digest = main.position()
        marks.append(Mark(lsn=lsn - 1, digest=digest.hex()))
    main.close()
    assert find_common(root, UUID, "main", marks[:25]).lsn == marks[24].lsn
    elsewhere = Mark(lsn=marks[24].lsn, digest="11" * 32)
    assert find_common(root, UUID, "main", [elsewhere, marks[3]]).lsn == marks[3].lsn
    for number, mark in enumerate(marks):
        wanted = NewLine(parent="main", lsn=mark.lsn, digest=mark.digest, name=f"fork-{mark.lsn}")
        store = root.store(UUID, make_line(root, UUID, wanted))
        assert len(list(verify_sealed(store))) == number + 1
        line = SealedLine.open(store)
        assert line.position() == (mark.lsn + 1, bytes.fromhex(mark.digest))
        line.close()
        assert list_lines(root, UUID).lines[-1].origin is not None
    whole = len(list(verify_sealed(root.store(UUID))))
    assert whole == len(marks)
    root.close()
