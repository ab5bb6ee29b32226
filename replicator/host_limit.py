"""The limit of a whole host: `throttle.toml` in the stores' home. Blocking calls; any thread.

[[throttle]]   days, hours, rate        as in a volume's replica.toml
[override]     rate, until_ns
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w

import store.errors
from replicator.errors import BadSettings
from replicator.settings import OverrideSettings, ThrottleSettings, calendar_of
from store import durable
from store.toml_file import read_toml
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
        limit = read_toml(path, HostLimit)
        calendar_of(limit.throttle, limit.override)
    except FileNotFoundError:
        return HostLimit()
    except store.errors.BadSettings as error:
        raise BadSettings(str(error), _MEND) from error
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}", error.hint) from error
    return limit


def save_host_limit(limit: HostLimit) -> None:
    """Write it atomically and durably. BadSettings when it is none."""
    calendar_of(limit.throttle, limit.override)
    durable.make_dir(stores_home())
    values = {key: value for key, value in msgspec.to_builtins(limit).items() if value is not None}
    durable.write_file_atomically(host_limit_path(), tomli_w.dumps(values).encode())
