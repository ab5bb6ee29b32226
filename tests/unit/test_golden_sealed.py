"""Golden sealed shipments, key files and backups of every version open, or fail, as stated here.

The files stay for ever. `python -m tests.unit.test_golden_sealed` makes those of a new version.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import BadShipment
from replicator.sealing import Ends, open_shipment, read_header, seal_shipment
from replicator.vault.sealed_files import pack_entry
from replicator.wire import shipment_id
from store.batch import NO_DIGEST
from store.errors import KeyMissing
from store.key_backup import read_backup, write_backup
from store.key_file import read_key_file
from store.keys import KeyRing, SealingKey
from store.types import Lsn

FOLDER = Path(__file__).parent / "golden" / "sealed-v1"
VOLUME = bytes(range(16))
OLD = SealingKey(bytes(range(32)), 1_700_000_000_000_000_000)
NEW = SealingKey(bytes(range(100, 132)), 1_800_000_000_000_000_000)
RING = KeyRing(bytes(range(200, 232)), (OLD, NEW))
PLAIN = b"what a shipment of version 1 may hold"


def golden() -> bytes:
    """The sealed shipment of version 1."""
    ends = Ends(VOLUME, Lsn(1), Lsn(7), NO_DIGEST, bytes([9] * 32))
    return seal_shipment(RING, ends, PLAIN, bytes([5] * 32))


def test_what_is_sealed_now_is_what_was_sealed_then() -> None:
    assert golden() == (FOLDER / "whole.shipment").read_bytes()


def test_the_golden_shipment_opens() -> None:
    data = (FOLDER / "whole.shipment").read_bytes()
    header = read_header(data)
    assert (header.volume, header.first_lsn, header.last_lsn) == (VOLUME, 1, 7)
    assert header.key == NEW.id and header.previous == NO_DIGEST
    assert header.digest == RING.chain_digest(VOLUME, bytes([9] * 32))
    assert open_shipment(RING, data) == PLAIN
    with pytest.raises(KeyMissing):
        open_shipment(KeyRing(RING.chain, (OLD,)), data)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("flipped-bit-in-header", "checksum"),
        ("flipped-bit-in-ciphertext", "the seal is broken"),
        ("truncated", "another size"),
        ("newer-version", "version 2"),
        ("unknown-feature", "features 0x1"),
    ],
)
def test_a_damaged_golden_shipment_fails_as_stated(name: str, what: str) -> None:
    with pytest.raises(BadShipment, match=what):
        open_shipment(RING, (FOLDER / f"{name}.shipment").read_bytes())


def test_the_golden_entry_of_a_vaults_file_is_as_it_was() -> None:
    data = (FOLDER / "whole.shipment").read_bytes()
    entry = pack_entry(1_700_000_000_000_000_001, len(data), bytes.fromhex(shipment_id(data)))
    assert (FOLDER / "whole.pack").read_bytes() == entry + data


def test_golden_keys_are_read_from_file_and_paper(tmp_path: Path) -> None:
    private = tmp_path / "seal.key"
    private.touch(0o600)
    private.write_bytes((FOLDER / "seal.key").read_bytes())
    assert read_key_file(private) == RING
    text = (FOLDER / "backup.txt").read_text()
    assert read_backup(text) == RING
    assert key_lines(write_backup(RING, "golden")) == key_lines(text)


def key_lines(text: str) -> list[str]:
    """Without those that are for people."""
    return [line for line in text.splitlines() if not line.startswith("#")]


def make() -> None:
    """Write the files of this version; never again once they are kept."""
    from replicator.sealing import _hash
    from store.key_file import _encode

    FOLDER.mkdir(parents=True)
    data = golden()

    def put(name: str, changed: bytes) -> None:
        (FOLDER / name).write_bytes(changed)

    def rehashed(changed: bytearray) -> bytes:
        changed[160:168] = _hash(bytes(changed[:160])).to_bytes(8, "little")
        return bytes(changed)

    put("whole.shipment", data)
    entry = pack_entry(1_700_000_000_000_000_001, len(data), bytes.fromhex(shipment_id(data)))
    put("whole.pack", entry + data)
    for name, at in (("header", 44), ("ciphertext", 180)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        put(f"flipped-bit-in-{name}.shipment", bytes(flipped))
    put("truncated.shipment", data[:-1])
    for name, at, value in (("newer-version", 8, 2), ("unknown-feature", 10, 1)):
        newer = bytearray(data)
        newer[at] = value
        put(f"{name}.shipment", rehashed(newer))
    put("seal.key", _encode(RING))
    put("backup.txt", write_backup(RING, "golden").encode())


if __name__ == "__main__":
    make()
