"""The backup of a key file: text for paper or another disk. Pure; any thread; no I/O.

Duty: all keys of a ring as lines that a person can type in again, each line with a checksum of its
own so that a mistyped one is named, and one checksum over everything. The alphabet is Crockford's
base32: no I, L, O, U; they are read as what they are mistaken for. Case, spaces and dashes do not
matter; lines that start with `#` are for people.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from blake3 import blake3

from store.errors import BadKeyFile
from store.format import Field, Table
from store.keys import MAX_KEYS, KeyRing, SealingKey

BACKUP_VERSION = 1

BACKUP_HEADER = Table(
    "key backup header",
    "Start of what the lines of a key backup spell. One entry for each key follows, oldest first, "
    "then 8 bytes: blake3 of everything before. Each line is 20 bytes of it (the last one fewer) "
    "in Crockford's base32, its number before it and 4 letters of checksum behind.",
    (
        Field("version", "H", "format version"),
        Field("key_count", "H", "keys in it"),
        Field("chain", "32s", "the chain secret"),
    ),
)

BACKUP_KEY = Table(
    "key backup entry",
    "One sealing key.",
    (
        Field("created_ns", "Q", "when it was made"),
        Field("secret", "32s", "the key"),
    ),
)

BACKUP_TABLES = (BACKUP_HEADER, BACKUP_KEY)

MAX_BACKUP_CHARACTERS = 1 << 20

_LINE_BYTES = 20
_SUM_BYTES = 8
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)} | {"I": 1, "L": 1, "O": 0}


def write_backup(ring: KeyRing, label: str) -> str:
    """The backup's text; `label` (one line) says for people what it is for."""
    data = BACKUP_HEADER.pack(version=BACKUP_VERSION, key_count=len(ring.keys), chain=ring.chain)
    data += b"".join(
        BACKUP_KEY.pack(created_ns=key.created_ns, secret=key.secret) for key in ring.keys
    )
    data += blake3(data).digest(_SUM_BYTES)
    lines = [
        _line(number, data[start : start + _LINE_BYTES])
        for number, start in enumerate(range(0, len(data), _LINE_BYTES), 1)
    ]
    return "\n".join([*_introduction(ring, label), *lines, ""])


def _introduction(ring: KeyRing, label: str) -> list[str]:
    made = datetime.fromtimestamp(ring.newest.created_ns // 10**9, UTC).strftime("%Y-%m-%d")
    printable = "".join(letter if letter.isprintable() else "?" for letter in label)
    return [
        f"# cdpfs sealing key {ring.newest.id.hex()} of {made}: {printable}",
        "# Whoever has this can read what it sealed, at a vault or on cartridges. Without this",
        "# or the key file nobody can. Keep it away from the site, the vault and the cartridges.",
        "# To use it: cdpfs key import-backup THIS-FILE KEY-FILE",
        "",
    ]


def read_backup(text: str) -> KeyRing:
    """The ring in a backup, typed or copied; BadKeyFile names the line that is wrong."""
    if len(text) > MAX_BACKUP_CHARACTERS:
        raise BadKeyFile("this is too long for a key backup")
    rows = [row.strip() for row in text.splitlines()]
    rows = [row for row in rows if row and not row.startswith("#")]
    if not rows:
        raise BadKeyFile("this is no key backup: there are no key lines in it")
    data = b"".join(_parse(number, row) for number, row in enumerate(rows, 1))
    return _ring(data)


def _ring(data: bytes) -> KeyRing:
    body, total = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if blake3(body).digest(_SUM_BYTES) != total:
        raise BadKeyFile("the key backup is not complete: its last lines are missing, or others")
    try:
        header = BACKUP_HEADER.unpack(body)
        entries = list(BACKUP_KEY.codec.iter_unpack(body[BACKUP_HEADER.size_bytes :]))
    except struct.error as error:
        raise BadKeyFile(f"this is no key backup: {error}") from error
    if header["version"] != BACKUP_VERSION:
        raise BadKeyFile(
            f"key backup version {header['version']} is not known here", "use a newer cdpfs"
        )
    if len(entries) != header["key_count"] or not 0 < len(entries) <= MAX_KEYS:
        raise BadKeyFile("this is no key backup: the number of its keys is impossible")
    return KeyRing(header["chain"], tuple(SealingKey(secret, made) for made, secret in entries))


def _line(number: int, data: bytes) -> str:
    letters = _spell(data)
    groups = [letters[at : at + 4] for at in range(0, len(letters), 4)]
    return f"{number:2}  {' '.join(groups)}  {_check(number, data)}"


def _parse(number: int, row: str) -> bytes:
    """The bytes of one line."""
    wrong = f"line {number} of the key backup is not right"
    told, _, rest = row.partition(" ")
    letters = rest.upper().replace(" ", "").replace("-", "")
    if told.rstrip(".:") != str(number) or len(letters) < 6:
        raise BadKeyFile(f"{wrong}: a line {number} with its number in front should be here")
    try:
        values = [_VALUES[letter] for letter in letters]
    except KeyError as error:
        raise BadKeyFile(f"{wrong}: {error.args[0]!r} is not one of its letters") from None
    data = _bytes(values[:-4])
    typed = "".join(_ALPHABET[value] for value in values[-4:])
    if len(data) > _LINE_BYTES or _check(number, data) != typed:
        raise BadKeyFile(f"{wrong}: its last four letters do not match the others")
    return data


def _check(number: int, data: bytes) -> str:
    """Four letters: 20 bits over a line and its number."""
    value = int.from_bytes(blake3(bytes([number & 0xFF]) + data).digest(3), "big") >> 4
    return "".join(_ALPHABET[value >> shift & 31] for shift in (15, 10, 5, 0))


def _spell(data: bytes) -> str:
    """Base32 of whole bytes, the most significant bit first, filled up with zero bits."""
    bits = len(data) * 8
    count = -(-bits // 5)
    value = int.from_bytes(data, "big") << (count * 5 - bits)
    return "".join(_ALPHABET[value >> 5 * (count - 1 - at) & 31] for at in range(count))


def _bytes(values: list[int]) -> bytes:
    """The inverse of `_spell`; what does not fill a byte is left out."""
    total = 0
    for value in values:
        total = total << 5 | value
    size, spare = divmod(len(values) * 5, 8)
    return (total >> spare).to_bytes(size, "big")
