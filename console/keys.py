"""What `cdpfs key …` does, and the demands of a sealed set-up. Blocking.

Secrets go into files of mode 0600, or to standard output when a backup is asked for; never into
messages. A key that has no backup is not used unless a person says that its loss is accepted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from console.errors import WrongUse
from console.output import note, path_text, say, time_text
from store.errors import BadKeyFile
from store.key_backup import MAX_BACKUP_CHARACTERS, read_backup, write_backup
from store.key_file import (
    create_key_file,
    read_backup_file,
    read_key_file,
    rotate_key_file,
    write_backup_file,
)
from store.key_file import import_backup as make_key_file
from store.keys import KeyRing

FATAL = (
    "Whoever loses this key and its backup can never read again what it sealed, replica or "
    "cartridges: not the site, not the vault, nobody."
)


def create(key_file: str, backup: str | None) -> None:
    """Make a key file, and its backup if asked for."""
    ring = create_key_file(Path(key_file))
    say(f"made  {path_text(key_file)}  with key {ring.newest.id.hex()}")
    _back_up(ring, key_file, backup)


def rotate(key_file: str, backup: str | None) -> None:
    """Add a key."""
    ring = rotate_key_file(Path(key_file))
    say(f"key {ring.newest.id.hex()} seals from now on; {len(ring.keys) - 1} older ones open")
    note("backups that were made before do not have it")
    _back_up(ring, key_file, backup)


def _back_up(ring: KeyRing, key_file: str, backup: str | None) -> None:
    note(FATAL)
    if backup is None:
        note(f"  next: cdpfs key show-backup {path_text(key_file)}")
        return
    write_backup_file(ring, os.path.abspath(key_file), Path(backup))
    say(f"backup  {path_text(backup)}: bring it away from this machine, and not to the vault")


def show_backup(key_file: str, to: str | None, label: str) -> None:
    """Print the backup, or write it into a new file."""
    ring = read_key_file(Path(key_file))
    label = label or os.path.abspath(key_file)
    if to is None:
        say(write_backup(ring, label).rstrip("\n"))
        return
    write_backup_file(ring, label, Path(to))
    say(f"backup  {path_text(to)}: bring it away from this machine, and not to the vault")


def import_backup(backup: str, key_file: str) -> None:
    """Make a key file out of a backup."""
    if backup == "-":
        text = sys.stdin.read(MAX_BACKUP_CHARACTERS + 1)
    else:
        text = read_backup_file(Path(backup))
    ring = make_key_file(text, Path(key_file))
    say(f"made  {path_text(key_file)}  with {_keys_text(ring)}")


def check(key_file: str, backup: str | None) -> None:
    """Say what is in a key file, and whether a backup has all of it; BadKeyFile if not."""
    ring = read_key_file(Path(key_file))
    for number, key in enumerate(reversed(ring.keys)):
        what = "seals and opens" if number == 0 else "opens"
        say(f"key {key.id.hex()}  of {time_text(key.created_ns)}  {what}")
    if backup is not None:
        check_backup(ring, backup)
        say(f"backup  {path_text(backup)}  has all of them")


def check_backup(ring: KeyRing, backup: str) -> None:
    """BadKeyFile unless the backup can open whatever the ring can."""
    if not read_backup(read_backup_file(Path(backup))).holds(ring):
        raise BadKeyFile(
            f"{backup} is not the backup of this key file, or was made before its newest key",
            "make a new one: cdpfs key show-backup",
        )


def checked_for_sealing(key_file: str, backup: str | None, accept_loss: bool) -> str:
    """The key file's absolute path, when all that is demanded before it is used is there.

    BadKeyFile; WrongUse when there is neither a backup nor a word that its loss is accepted.
    """
    ring = read_key_file(Path(key_file))
    if backup is not None:
        check_backup(ring, backup)
        if os.path.samefile(backup, key_file):
            raise WrongUse("the key file is not a backup of itself", "cdpfs key check")
    elif not accept_loss:
        raise WrongUse(
            f"the key has no backup. {FATAL}",
            f"cdpfs key show-backup {key_file} --to FILE, then --key-backup FILE",
            "or, if it is on paper, or its loss is accepted: --accept-key-loss",
        )
    return os.path.abspath(key_file)


def _keys_text(ring: KeyRing) -> str:
    count = len(ring.keys)
    return f"{count} key{'' if count == 1 else 's'}, the newest {ring.newest.id.hex()}"
