"""Reading a settings file: TOML of a bounded size, checked against a type.

Duty: the reading that all settings have in common. Blocking calls; any thread. What else must hold
of the values, and what a person is to do, is known to whoever has the settings.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from store.errors import BadSettings

MAX_FILE_BYTES: Final = 1 << 20

T = TypeVar("T")


def read_toml(path: Path, kind: type[T], what: str = "a configuration") -> T:
    """What is in the file, as `kind`. BadSettings, which names the file; OSError.

    `what` it should be, for the message about one that is too long.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise BadSettings(f"{path} is too long to be {what}")
    try:
        return msgspec.convert(tomllib.loads(raw.decode("utf-8")), kind)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadSettings(f"{path}: {error}") from error
