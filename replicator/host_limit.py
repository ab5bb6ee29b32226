"""The limit of a whole host: `throttle.toml` in the stores' home. Blocking calls; any thread.

[[throttle]]   days, hours, rate        as in a volume's replica.toml
[override]     rate, until_ns
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w

from replicator.errors import BadSettings
from replicator.settings import (
    MAX_FILE_BYTES,
    OverrideSettings,
    ThrottleSettings,
    calendar_of,
)
from store import durable
from store.volume import stores_home

FILE_NAME = "throttle.toml"
_MEND = "mend it, or remove it: then the host has no limit"


class HostLimit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All of the file."""

    throttle: Annotated[list[ThrottleSettings], msgspec.Meta(max_length=64)] = []
    override: OverrideSettings | None = None


def host_limit_path() -> Path:
    """Where the host's limit stands."""
    return stores_home() / FILE_NAME


def load_host_limit() -> HostLimit:
    """The host's limit; an empty one when none was ever set. BadSettings."""
    path = host_limit_path()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return HostLimit()
    try:
        limit = msgspec.convert(tomllib.loads(raw.decode("utf-8")), HostLimit)
        calendar_of(limit.throttle, limit.override)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadSettings(f"{path}: {error}", _MEND) from error
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}", error.hint) from error
    return limit


def save_host_limit(limit: HostLimit) -> None:
    """Write it atomically and durably. BadSettings when it is none."""
    calendar_of(limit.throttle, limit.override)
    durable.make_dir(stores_home())
    values = {key: value for key, value in msgspec.to_builtins(limit).items() if value is not None}
    durable.write_file_atomically(host_limit_path(), tomli_w.dumps(values).encode())
