"""What a volume's `tape.toml` says: its library, its pools, and when the spooler works.

Duty: types with bounds, reading with errors that name the line to mend, atomic writing. What holds
for a whole library is in its `library.toml`. Blocking calls; any thread.

    enabled = true
    library = "/var/lib/cdpfs-library"
    archive_bytes = 0            # 0: a quarter of a cartridge at most, 8 GiB at most
    min_scratch = 1              # with fewer cartridges left, the oldest set is recycled
    alarm_lag_s = 172800.0       # more than this not on tape is an alarm; 0: never
    [start]     staged_bytes, age_s
    [[windows]] days, hours      # the spooler begins a run in these only; none: at any time
    [[pools]]   name, keep_days, full_every_days
      [pools.rotate] days, time, place
    [seal]      key_file
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import msgspec
import tomli_w

import store.errors
from store import durable
from store.toml_file import read_toml
from store.week import Hours, Week, Weekly, parse_days, parse_hours, parse_time
from tape.catalogue import SCRATCH_POOL
from tape.errors import BadSettings
from tape.layout import PoolName, Text

FILE_NAME: Final = "tape.toml"
MAX_ARCHIVE_BYTES: Final = 8 << 30
"""Where the settings say nothing: so much is staged, and written again when it fails."""
MIN_ARCHIVE_BYTES: Final = 1 << 16
_CARTRIDGE_SHARE: Final = 4
"""An archive takes at most this part of a cartridge: what is lost at its end is at most as much."""
_DAY_NS: Final = 86_400_000_000_000
_MEND = "mend it, or write it anew: cdpfs tape attach DIR --library L"

AbsolutePath = Annotated[str, msgspec.Meta(pattern="^(/.*)?$", max_length=4096)]
"""Absolute, or empty for none."""
Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
WeekText = Annotated[str, msgspec.Meta(max_length=64)]


class StartSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When a run begins: as soon as either of the two is reached."""

    staged_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 60)] = 4 << 30
    """So much of the journal is not on tape yet."""
    age_s: Annotated[float, msgspec.Meta(ge=1, le=366 * 86400)] = 86_400.0
    """The oldest change that is not on tape yet is so old."""


class WindowSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Hours of the week, local time."""

    days: WeekText = ""
    """Such as `mon-fri`; empty for every day."""
    hours: WeekText = ""
    """Such as `20:00-06:00`; empty for the whole day."""


class RotateSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When a pool's set is closed and its cartridges go to the export slots."""

    days: WeekText = "fri"
    time: Annotated[str, msgspec.Meta(max_length=8)] = "18:00"
    place: Text = "off-site"
    """Where they are then, for people."""


class PoolSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One copy of the volume."""

    name: PoolName
    keep_days: Days = 35
    """So long after it was closed a set stays."""
    full_every_days: Days = 7
    """A set is closed, and a new one begun with a full, when it is so old."""
    rotate: RotateSettings | None = None
    """None: it stays in the library."""

    @property
    def keep_ns(self) -> int:
        """`keep_days` in ns."""
        return self.keep_days * _DAY_NS

    @property
    def full_every_ns(self) -> int:
        """`full_every_days` in ns."""
        return self.full_every_days * _DAY_NS

    def rotation(self, zone: str | None = None) -> Weekly | None:
        """When its cartridges go out; None: never. `zone` None: the system's. BadSettings."""
        if self.rotate is None:
            return None
        try:
            return Weekly(parse_days(self.rotate.days), parse_time(self.rotate.time), zone)
        except store.errors.BadSettings as error:
            raise BadSettings(f"rotation of {self.name}: {error}", error.hint) from error


class SealSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Encryption of the sets."""

    key_file: AbsolutePath = ""
    """Holds the key without which nobody can read the cartridges; empty for none."""


class TapeSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All of `tape.toml`."""

    enabled: bool = True
    library: Annotated[str, msgspec.Meta(pattern="^/", max_length=4096)]
    archive_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 0
    """At most so long is an archive; 0: as `archive_bytes_for` says."""
    min_scratch: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 1
    alarm_lag_s: Annotated[float, msgspec.Meta(ge=0)] = 172_800.0
    start: StartSettings = msgspec.field(default_factory=StartSettings)
    windows: Annotated[list[WindowSettings], msgspec.Meta(max_length=64)] = []
    pools: Annotated[list[PoolSettings], msgspec.Meta(min_length=1, max_length=8)]
    seal: SealSettings = msgspec.field(default_factory=SealSettings)

    def pool(self, name: str) -> PoolSettings:
        """The pool of that name. BadSettings."""
        for each in self.pools:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.pools)
        raise BadSettings(f"the volume has no pool {name}", f"it has: {known}")

    def archive_bytes_for(self, capacity_bytes: int) -> int:
        """How long an archive may be on cartridges of that capacity (0: it is not known)."""
        most = self.archive_bytes or MAX_ARCHIVE_BYTES
        if capacity_bytes:
            most = min(most, capacity_bytes // _CARTRIDGE_SHARE)
        return max(most, MIN_ARCHIVE_BYTES)

    def window(self, zone: str | None = None) -> Week | None:
        """When runs may begin (`Week.at` is not None then); None: always. BadSettings."""
        if not self.windows:
            return None
        try:
            return Week(
                [Hours(parse_days(w.days), parse_hours(w.hours)) for w in self.windows], zone
            )
        except store.errors.BadSettings as error:
            raise BadSettings(f"windows: {error}", error.hint) from error


def default_pool(name: str) -> PoolSettings:
    """What a pool is like when nothing is said of it: by its name, it goes out weekly or stays."""
    if name.startswith("offsite"):
        return PoolSettings(name=name, keep_days=365, rotate=RotateSettings())
    return PoolSettings(name=name)


def settings_path(store_root: Path) -> Path:
    """Where a store keeps its settings of the tape library."""
    return store_root / FILE_NAME


def load_settings(store_root: Path) -> TapeSettings | None:
    """The settings of a store; None when it has no library. BadSettings."""
    path = settings_path(store_root)
    try:
        settings = read_toml(path, TapeSettings)
        _check(settings)
    except FileNotFoundError:
        return None
    except store.errors.BadSettings as error:
        raise BadSettings(str(error), _MEND) from error
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}", error.hint) from error
    return settings


def save_settings(store_root: Path, settings: TapeSettings) -> None:
    """Write them atomically and durably; BadSettings when they are not valid ones."""
    values = _without_none(msgspec.to_builtins(settings))
    try:
        msgspec.convert(values, TapeSettings)
    except msgspec.ValidationError as error:
        raise BadSettings(f"the tape library can't be set up like this: {error}") from error
    _check(settings)
    data = tomli_w.dumps(values).encode()
    durable.write_file_atomically(settings_path(store_root), data)


def drop_settings(store_root: Path) -> None:
    """The store has no library any more; a missing file is fine."""
    durable.unlink(settings_path(store_root))


def _without_none(values: dict[str, object]) -> dict[str, object]:
    """TOML has no null: what is None is left away, in pools too."""
    found = {key: value for key, value in values.items() if value is not None}
    pools = found.get("pools")
    if isinstance(pools, list):
        found["pools"] = [_without_none(pool) for pool in pools]
    return found


def _check(settings: TapeSettings) -> None:
    """What the types can't say. BadSettings."""
    names = Counter(pool.name for pool in settings.pools)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise BadSettings(f"the pool {twice[0]} is there twice")
    if SCRATCH_POOL in names:
        raise BadSettings(f"no pool can be called {SCRATCH_POOL}", "it is what free cartridges are")
    if 0 < settings.archive_bytes < MIN_ARCHIVE_BYTES:
        raise BadSettings(f"archive_bytes is less than {MIN_ARCHIVE_BYTES}", "0 leaves it to cdpfs")
    settings.window()
    for pool in settings.pools:
        pool.rotation()
