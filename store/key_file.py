"""Key files: where a site keeps what seals its shipments. Blocking; any thread.

Duty: make, read and extend them. A key file is TOML, mode 0600, replaced in one step; secrets are
in nothing else, and neither in messages nor in logs. What is in it means is `sealing`'s.

A key file that others could read is refused: by then its keys have to be taken for known.
"""

from __future__ import annotations

import base64
import os
import stat
import time
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w

from store import durable
from store.errors import BadKeyFile
from store.key_backup import MAX_BACKUP_CHARACTERS, read_backup, write_backup
from store.keys import ENTROPY_BYTES, MAX_KEYS, SECRET_BYTES, KeyRing, SealingKey

KEY_FILE_VERSION = 1
MAX_KEY_FILE_BYTES = 1 << 20

_Secret = Annotated[str, msgspec.Meta(min_length=44, max_length=44)]


class _Key(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    id: str
    created_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    secret: _Secret


class _KeyFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    chain: _Secret
    keys: Annotated[list[_Key], msgspec.Meta(min_length=1, max_length=MAX_KEYS)]


def new_entropy() -> bytes:
    """What `seal_shipment` wants: new bytes of the system's random source."""
    return os.urandom(ENTROPY_BYTES)


def create_key_file(path: Path) -> KeyRing:
    """Make a key file with one new key; BadKeyFile when the place is taken."""
    first = SealingKey(os.urandom(SECRET_BYTES), time.time_ns())
    ring = KeyRing(os.urandom(SECRET_BYTES), (first,))
    _save_new(path, ring)
    return ring


def rotate_key_file(path: Path) -> KeyRing:
    """Add a new key, which seals from now on; the others stay, to open what they sealed."""
    ring = read_key_file(path)
    if len(ring.keys) >= MAX_KEYS:
        raise BadKeyFile(
            f"{path} has {MAX_KEYS} keys already", "begin a new line of the volume with a new one"
        )
    ring = ring.rotated(os.urandom(SECRET_BYTES), time.time_ns())
    durable.write_file_atomically(path, _encode(ring))
    return ring


def read_key_file(path: Path) -> KeyRing:
    """The keys in a file; BadKeyFile when it is missing, damaged or open to others."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            raw = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise BadKeyFile(f"the key file {path} can't be read: {error.strerror}") from error
    if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077:
        raise BadKeyFile(
            f"the key file {path} is open to other users",
            f"chmod 600 {path}; if anyone may have read it, rotate the key: cdpfs key rotate",
        )
    return _decode(path, raw)


def import_backup(text: str, path: Path) -> KeyRing:
    """Make the key file at `path` out of a backup's text; BadKeyFile when the place is taken."""
    ring = read_backup(text)
    _save_new(path, ring)
    return ring


def read_backup_file(backup: Path) -> str:
    """The text of a backup; BadKeyFile."""
    try:
        with backup.open("rb") as file:
            raw = file.read(MAX_BACKUP_CHARACTERS + 1)
        return raw.decode("ascii")
    except OSError as error:
        raise BadKeyFile(f"the key backup {backup} can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadKeyFile(f"{backup} is no key backup: it has letters that none has") from None


def write_backup_file(ring: KeyRing, label: str, path: Path) -> None:
    """Put a backup into a new file, mode 0600; BadKeyFile when the place is taken."""
    _put(path, write_backup(ring, label).encode("ascii", "replace"))


def _save_new(path: Path, ring: KeyRing) -> None:
    _put(path, _encode(ring))


def _put(path: Path, data: bytes) -> None:
    """A file that was not there, durable when it returns."""
    try:
        fd = durable.create_file(path)
    except FileExistsError:
        raise BadKeyFile(
            f"{path} is there already", "choose another place; a key file is never written over"
        ) from None
    except OSError as error:
        raise BadKeyFile(f"{path} can't be made: {error.strerror}") from error
    try:
        durable.pwrite_all(fd, data, 0)
        durable.fsync(fd)
    finally:
        durable.close_file(fd)
    durable.fsync_dir(path.absolute().parent)


def _encode(ring: KeyRing) -> bytes:
    values = {
        "format_version": KEY_FILE_VERSION,
        "chain": _text(ring.chain),
        "keys": [
            {"id": key.id.hex(), "created_ns": key.created_ns, "secret": _text(key.secret)}
            for key in ring.keys
        ],
    }
    head = "# The sealing keys of a cdpfs site. Lost: nobody can read what they sealed.\n"
    return (head + tomli_w.dumps(values)).encode()


def _decode(path: Path, raw: bytes) -> KeyRing:
    """No message of this shows what is in the file."""
    if len(raw) > MAX_KEY_FILE_BYTES:
        raise BadKeyFile(f"{path} is too large for a key file")
    try:
        found = msgspec.convert(tomllib.loads(raw.decode()), _KeyFile)
        keys = tuple(SealingKey(_secret(key.secret), key.created_ns) for key in found.keys)
        chain = _secret(found.chain)
    except (ValueError, msgspec.ValidationError) as error:
        raise BadKeyFile(f"{path} is no key file, or damaged") from error
    if found.format_version != KEY_FILE_VERSION:
        raise BadKeyFile(
            f"{path} is a key file of version {found.format_version}", "use a newer cdpfs"
        )
    for key, told in zip(keys, found.keys, strict=True):
        if key.id.hex() != told.id:
            raise BadKeyFile(f"{path} is damaged: key {told.id} is not what its id says")
    return KeyRing(chain, keys)


def _text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def _secret(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if len(raw) != SECRET_BYTES:
        raise ValueError("a secret has another length")
    return raw
