"""Sealed archives: whole archives, encrypted in chunks, for cartridges that go out of the house.

Duty: the chunks of an archive from its plain bytes, and back. Pure; any thread; no I/O. Whoever has
a cartridge and no key sees the head (volume, LSNs, times), how large the archive is, and that it is
whole; never names, contents or programs.

**Keys.** Each archive has a key of its own: HKDF-SHA256 of the ring's newest sealing key with the
salt that its head states. The salt is a keyed blake3 over fresh entropy and the head, which has the
set, the number in it and the time; so two archives share a key only if a machine gives out the same
entropy twice for one head. An archive that is made again gets a new salt.

**Chunks.** ChaCha20-Poly1305 (RFC 8439) over CHUNK_BYTES at a time, the last one shorter, with the
digest of the head's member, as it stands there, as associated data. The nonce is the chunk's number
and whether it is the last (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO
2015): a chunk that is changed, left out, moved, doubled or cut off at the end is noticed, and so is
another head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from store.keys import ENTROPY_BYTES, KeyRing, SealingKey, derive
from tape.errors import BadArchive
from tape.layout import SEALED_FOLDER, ArchiveHead

CHUNK_BYTES: Final = 1 << 20
"""Plain bytes of a chunk; the last one has from 1 to so many."""

TAG_BYTES: Final = 16

_CHUNK_COST_BYTES: Final = 1024
"""Of a chunk in the archive: its header, its tag and what fills it up."""


def sealed_head(head: ArchiveHead, ring: KeyRing, entropy: bytes) -> ArchiveHead:
    """The readable head of the sealed form of an archive.

    `entropy`: ENTROPY_BYTES from the system's random source, new for each call.
    """
    assert len(entropy) == ENTROPY_BYTES
    key = ring.newest
    readable = msgspec.structs.replace(head, key_id=key.id.hex(), salt="", settings={})
    mixer = blake3(entropy, key=derive(key.secret, b"tape salt"))
    salt = mixer.update(msgspec.json.encode(readable)).hexdigest()
    return msgspec.structs.replace(readable, salt=salt)


def check_inside(outside: ArchiveHead, inside: ArchiveHead) -> None:
    """BadArchive unless an opened archive is the one that its readable head says."""
    told = msgspec.structs.replace(outside, key_id="", salt="")
    if msgspec.structs.replace(inside, settings={}) != told:
        raise BadArchive("a sealed archive holds another one than its head says")


def overhead_bytes(limit_bytes: int) -> int:
    """What sealing may add to an archive that is at most `limit_bytes` large, ends left out."""
    return (limit_bytes // CHUNK_BYTES + 2) * _CHUNK_COST_BYTES


def chunk_name(number: int) -> str:
    """Of the member of a chunk, from 0."""
    return f"{SEALED_FOLDER}/{number:08d}"


class ChunkSealer:
    """Seals the chunks of one archive, in order."""

    def __init__(self, ring: KeyRing, head: ArchiveHead, text: bytes) -> None:
        """`head` is what `sealed_head` made with this ring, `text` the member that it becomes."""
        self._cipher, self._told = _cipher(ring.newest, head), blake3(text).digest()
        self._waiting = bytearray()
        self.chunks = 0

    @property
    def waiting_bytes(self) -> int:
        """Taken, and not in a chunk yet."""
        return len(self._waiting)

    def take(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The chunks that `data` completes."""
        self._waiting += data
        # A byte more than a chunk has to be there: only then is it not the last one.
        while len(self._waiting) > CHUNK_BYTES:
            chunk = bytes(memoryview(self._waiting)[:CHUNK_BYTES])
            del self._waiting[:CHUNK_BYTES]
            yield self._seal(chunk, last=False)

    def end(self) -> bytes:
        """The last chunk."""
        return self._seal(bytes(self._waiting), last=True)

    def _seal(self, plain: bytes, last: bool) -> bytes:
        nonce = _nonce(self.chunks, last)
        self.chunks += 1
        return self._cipher.encrypt(nonce, plain, self._told)


class ChunkOpener:
    """Opens the chunks of one archive, in order."""

    def __init__(self, ring: KeyRing, head: ArchiveHead, text: bytes) -> None:
        """`text`: the member that `head` was read from. KeyMissing when the ring can't open it."""
        try:
            key = ring.key(bytes.fromhex(head.key_id))
        except ValueError:
            raise BadArchive("a sealed archive with an impossible key id") from None
        self._cipher, self._told = _cipher(key, head), blake3(text).digest()
        self._chunks = 0

    def open(self, sealed: bytes, last: bool) -> bytes:
        """The plain bytes of the next chunk. BadArchive."""
        nonce = _nonce(self._chunks, last)
        self._chunks += 1
        try:
            return self._cipher.decrypt(nonce, sealed, self._told)
        except InvalidTag:
            raise BadArchive(
                "the seal is broken: damaged, cut, or changed by somebody",
                "take the other copy: cdpfs tape status shows the sets",
            ) from None


def _cipher(key: SealingKey, head: ArchiveHead) -> ChaCha20Poly1305:
    """The cipher of one archive."""
    return ChaCha20Poly1305(derive(key.secret, b"tape archive", salt=bytes.fromhex(head.salt)))


def _nonce(number: int, last: bool) -> bytes:
    return bytes(3) + number.to_bytes(8, "big") + bytes([last])
