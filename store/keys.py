"""Sealing keys: what a site has and nobody else, for its replica and its cartridges. Pure.

Duty: the ring of keys, and the keys of one purpose that are derived from it. Any thread; no I/O.
`store/key_file.py` keeps a ring, `replicator/sealing.py` and `tape/sealing.py` use it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.batch import NO_DIGEST
from store.errors import KeyMissing

SECRET_BYTES = 32
ENTROPY_BYTES = 32
MAX_KEYS = 1000
"""Of one ring; rotation every day for years."""


class SealingKey(NamedTuple):
    """One key. Its text form shows the id only."""

    secret: bytes
    created_ns: int

    @property
    def id(self) -> bytes:
        """Eight bytes that name the key and say nothing about it."""
        return derive(self.secret, b"id", 8)

    def __repr__(self) -> str:
        return f"SealingKey({self.id.hex()})"


@dataclass(frozen=True)
class KeyRing:
    """What a site has: the chain secret, and its keys, oldest first. The newest one seals."""

    chain: bytes = field(repr=False)
    keys: tuple[SealingKey, ...]

    def __post_init__(self) -> None:
        assert len(self.chain) == SECRET_BYTES and 0 < len(self.keys) <= MAX_KEYS
        assert all(len(key.secret) == SECRET_BYTES for key in self.keys)

    @property
    def newest(self) -> SealingKey:
        """The one that seals."""
        return self.keys[-1]

    def key(self, key_id: bytes) -> SealingKey:
        """The key of that id; KeyMissing."""
        for key in self.keys:
            if key.id == key_id:
                return key
        raise KeyMissing(f"this was sealed with key {key_id.hex()}, which the key file lacks")

    def rotated(self, secret: bytes, now_ns: int) -> KeyRing:
        """With one more key, which seals from now on. AssertionError beyond MAX_KEYS."""
        return KeyRing(self.chain, (*self.keys, SealingKey(secret, now_ns)))

    def holds(self, other: KeyRing) -> bool:
        """Can this ring open whatever `other` can?"""
        mine = {key.secret for key in self.keys}
        return self.chain == other.chain and all(key.secret in mine for key in other.keys)

    def chain_digest(self, volume: bytes, digest: bytes) -> bytes:
        """What others are told of a batch's digest. None (zeros) stays none."""
        if digest == NO_DIGEST:
            return NO_DIGEST
        return blake3(digest, key=derive(self.chain, b"chain" + volume)).digest()


def derive(secret: bytes, purpose: bytes, length: int = 32, salt: bytes | None = None) -> bytes:
    """A key for one purpose from a secret (RFC 5869)."""
    info = b"cdpfs sealing 1 " + purpose
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)
