"""What a person says of a volume's pools on the command line, as settings.

Duty: parse `POOL=VALUE` words and put them into `TapeSettings`. WrongUse says which word is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from console.errors import WrongUse
from console.sizes import parse_size
from tape.settings import (
    PoolSettings,
    RotateSettings,
    TapeSettings,
    WindowSettings,
    default_pool,
)

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, None: 1}


@dataclass(frozen=True)
class PoolWishes:
    """What is asked for; empty and None leave it as it is."""

    copies: str | None = None
    keep: tuple[str, ...] = ()
    full_every: tuple[str, ...] = ()
    rotate: tuple[str, ...] = ()
    place: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    start_size: str | None = None
    start_age: str | None = None
    archive_size: str | None = None
    min_scratch: int | None = None
    alarm_lag_s: float | None = None


def apply_wishes(settings: TapeSettings, wishes: PoolWishes) -> None:
    """Change the settings as is wished for. WrongUse; BadSettings comes when they are saved."""
    if wishes.copies is not None:
        known = {pool.name: pool for pool in settings.pools}
        names = [name.strip() for name in wishes.copies.split(",") if name.strip()]
        settings.pools = [known.get(name) or default_pool(name) for name in names]
    for pool, value in _pairs(wishes.keep, "--keep", settings):
        pool.keep_days = _days(value, "--keep")
    for pool, value in _pairs(wishes.full_every, "--full-every", settings):
        pool.full_every_days = _days(value, "--full-every")
    for pool, value in _pairs(wishes.rotate, "--rotate", settings):
        pool.rotate = _rotation(pool, value)
    for pool, value in _pairs(wishes.place, "--place", settings):
        if pool.rotate is None:
            raise WrongUse(f"the pool {pool.name} stays in the library", "give --rotate as well")
        pool.rotate.place = value
    if wishes.windows:
        settings.windows = [_window(text) for text in wishes.windows if text != "always"]
    if wishes.start_size is not None:
        settings.start.staged_bytes = parse_size(wishes.start_size)
    if wishes.start_age is not None:
        settings.start.age_s = parse_age(wishes.start_age)
    if wishes.archive_size is not None:
        settings.archive_bytes = parse_size(wishes.archive_size)
    if wishes.min_scratch is not None:
        settings.min_scratch = wishes.min_scratch
    if wishes.alarm_lag_s is not None:
        settings.alarm_lag_s = wishes.alarm_lag_s


def _pairs(
    words: Iterable[str], option: str, settings: TapeSettings
) -> Iterable[tuple[PoolSettings, str]]:
    """`POOL=VALUE`; a value alone is for every pool."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            for pool in settings.pools:
                yield pool, word.strip()
            continue
        found = [pool for pool in settings.pools if pool.name == name.strip()]
        if not found:
            known = ", ".join(pool.name for pool in settings.pools)
            raise WrongUse(f"{option} {word}: there is no pool {name}", f"there are: {known}")
        yield found[0], value.strip()


def _days(text: str, option: str) -> int:
    found = re.fullmatch(r"(\d{1,5})\s*(?:d|days?)?", text)
    if found is None or not 1 <= int(found[1]) <= 36_500:
        raise WrongUse(f"{option} {text}: not a number of days", f"such as {option} offsite=365")
    return int(found[1])


def _rotation(pool: PoolSettings, text: str) -> RotateSettings | None:
    """`fri 18:00`, `mon,thu 06:00`, or `never`."""
    if text == "never":
        return None
    days, _, time = text.rpartition(" ")
    if not days:
        raise WrongUse(
            f"--rotate {text}: not days and a time", 'such as --rotate "offsite=fri 18:00"'
        )
    before = pool.rotate or RotateSettings()
    return RotateSettings(days=days.strip(), time=time, place=before.place)


def _window(text: str) -> WindowSettings:
    """`mon-fri 20:00-06:00`, `20:00-06:00` or `sat,sun`."""
    words = text.split()
    hours = [word for word in words if word[0].isdigit()]
    days = [word for word in words if not word[0].isdigit()]
    if not words or len(hours) > 1 or len(days) > 1:
        raise WrongUse(f"--window {text}: not days and hours", 'such as "mon-fri 20:00-06:00"')
    return WindowSettings(days="".join(days), hours="".join(hours))


def parse_age(text: str) -> float:
    """Seconds that `90`, `30m`, `12h` or `2d` mean. WrongUse."""
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise WrongUse(f"{text!r} is no length of time", "such as 30m, 12h or 2d")
    return float(found[1]) * _SECONDS[found[2]]
