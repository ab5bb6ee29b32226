"""`cdpfs throttle`: set the limit of a volume or of the host, and show what holds.

Duty: edit the settings, tell the daemon, and say what is now true, from the settings and from what
the replicator says of itself. It works unmounted, too. Blocking calls; any thread.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Any

from console.errors import WrongUse
from console.output import (
    duration_text,
    note,
    path_text,
    print_json,
    say,
    size_text,
    table,
    time_json,
    time_text,
)
from console.replicating import poke, replication_of, required_settings
from console.volumes import volume_of
from replicator.calendar import Standing, parse_rate, parse_rule, rate_text
from replicator.errors import BadSettings
from replicator.host_limit import HostLimit, load_host_limit, save_host_limit
from replicator.settings import (
    OverrideSettings,
    ReplicaSettings,
    ThrottleSettings,
    calendar_of,
    load_settings,
    save_settings,
)
from store.errors import NoSuchVolume
from store.volume import Store, list_stores

AUTO = "auto"
"""The word for what the calendar says."""

_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
MAX_DURATION_S = 10 * 365 * 86_400


@dataclass(frozen=True)
class Target:
    """Whose limit: that of a volume, named by a path or by its name, or that of the host."""

    path: str
    volume: str | None
    host: bool
    store: str | None

    def find(self) -> Store:
        """The volume. NoSuchVolume when there is none; WrongUse for the host."""
        if self.host:
            raise WrongUse("the host has no weight of its own", "name a volume: DIR or --volume V")
        if self.volume is None:
            return volume_of(self.path, self.store)
        if self.store is not None:
            raise WrongUse("--volume and --store both name a volume", "give one of them")
        for store in list_stores():
            if self.volume in (store.config.name, store.config.uuid):
                return store
        if is_path(self.volume):
            return volume_of(self.volume, None)
        raise NoSuchVolume(f"no volume here is called {self.volume}")


Limits = ReplicaSettings | HostLimit
"""What holds a calendar and an override."""


def is_path(word: str) -> bool:
    """Does somebody who writes this mean a place and no rate?"""
    return "/" in word or word in (".", "..") or os.path.isdir(word)


def parse_duration(text: str) -> int:
    """Seconds that `2h`, `1h30m`, `45m` or `1d` mean. WrongUse."""
    word = text.strip().lower()
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,6})?)\s*([wdhms])", word)
    whole = re.fullmatch(r"(?:\d{1,9}(?:\.\d{1,6})?\s*[wdhms]\s*)+", word)
    seconds = round(sum(float(count) * _UNITS_S[unit] for count, unit in parts))
    if whole is None or not 0 < seconds <= MAX_DURATION_S:
        raise WrongUse(f"{text!r} is no length of time", "write for example 2h, 1h30m, 45m or 1d")
    return seconds


def set_limit(target: Target, rate: str, duration: str | None, as_json: bool) -> None:
    """Set the limit by hand, for good or for a while; `auto` takes that away again."""
    word = rate.strip().lower()
    if word == AUTO and duration is not None:
        raise WrongUse("auto is for good", "leave --for away")
    until_ns = 0
    if duration is not None:
        until_ns = time.time_ns() + parse_duration(duration) * 10**9
    override = None
    if word != AUTO:
        override = OverrideSettings(rate=rate_text(parse_rate(rate)), until_ns=until_ns)
    limits = _load(target)
    limits.override = override
    _save(target, limits)
    # What it says of itself is of before; what was written is true within the next two seconds.
    _tell(target, limits, as_json)


def set_weight(target: Target, weight: float) -> None:
    """Set what a volume gets when the volumes of a host share its limit."""
    store = target.find()
    settings = required_settings(store)
    settings.weight = weight
    save_settings(store.root, settings)
    poke(store)
    say(f"weight  {weight:g}  {path_text(store.config.directory)}")


def add_rule(target: Target, rate: str, days: str, hours: str, at: int | None) -> None:
    """Add a rule to the calendar, at number `at` or last."""
    parse_rule(days, hours, rate)
    limits = _load(target)
    rule = ThrottleSettings(days=days, hours=hours, rate=rate_text(parse_rate(rate)))
    limits.throttle.insert(len(limits.throttle) if at is None else at - 1, rule)
    _save(target, limits)
    _list(limits)


def remove_rule(target: Target, number: int) -> None:
    """Remove rule `number`, counted from 1."""
    limits = _load(target)
    if number > len(limits.throttle):
        raise WrongUse(
            f"there is no rule number {number}", "see them: cdpfs throttle schedule list"
        )
    del limits.throttle[number - 1]
    _save(target, limits)
    _list(limits)


def list_rules(target: Target, as_json: bool) -> None:
    """Print the calendar."""
    limits = _load(target)
    if as_json:
        print_json(_rules_json(limits))
    else:
        _list(limits)


def _rules_json(limits: Limits) -> list[dict[str, Any]]:
    return [
        {
            "number": number,
            "days": rule.days,
            "hours": rule.hours,
            "rate": rule.rate,
            "limit_bps": parse_rate(rule.rate),
        }
        for number, rule in enumerate(limits.throttle, 1)
    ]


def _list(limits: Limits) -> None:
    if not limits.throttle:
        say("no rules: there is no limit but what is set by hand")
        return
    rows = [
        (str(number), rule.days or "every day", rule.hours or "all day", rule.rate)
        for number, rule in enumerate(limits.throttle, 1)
    ]
    table(("", "days", "hours", "rate"), rows, right=(3,))


def _load(target: Target) -> Limits:
    return load_host_limit() if target.host else required_settings(target.find())


def _save(target: Target, limits: Limits) -> None:
    if isinstance(limits, HostLimit):
        # The replicators look at it four times a second; nobody need be told.
        save_host_limit(limits)
        return
    store = target.find()
    save_settings(store.root, limits)
    poke(store)


# --- what holds ----------------------------------------------------------------------------------


def show(target: Target, as_json: bool) -> None:
    """Print what holds, why, until when, and how far the replica is."""
    _tell(target, _load(target), as_json)


def _tell(target: Target, limits: Limits, as_json: bool) -> None:
    said = _host_json(limits) if isinstance(limits, HostLimit) else _volume_json(target, limits)
    if as_json:
        print_json(said)
        return
    rows = _host_rows(said) if target.host else _volume_rows(said)
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        say(f"{label.ljust(width)}  {text}")


def _standing(limits: Limits) -> Standing:
    return calendar_of(limits.throttle, limits.override).at(time.time_ns())


def _standing_json(standing: Standing) -> dict[str, Any]:
    until_ns = standing.until_ns
    return {
        "limit_bps": standing.rate_bps,
        "limit": rate_text(standing.rate_bps),
        "reason": standing.reason,
        "until": None if until_ns is None else time_json(until_ns),
        "until_ns": until_ns,
    }


def _volume_json(target: Target, settings: ReplicaSettings) -> dict[str, Any]:
    store = target.find()
    own = _standing(settings)
    said = replication_of(store) or {}
    host = _standing(load_host_limit())
    least = own
    if host.rate_bps is not None and (own.rate_bps is None or host.rate_bps < own.rate_bps):
        least = host._replace(reason=f"limit of the host: {host.reason}")
    return {
        "volume": store.config.name,
        **_standing_json(least),
        "state": said.get("state", "down"),
        "in_force_bps": said.get("limit_bps"),
        "rate_bps": said.get("rate_bps", 0),
        "lag_s": said.get("lag_s", 0.0),
        "lag_bytes": said.get("lag_bytes", 0),
        "eta_s": said.get("eta_s"),
        "weight": settings.weight,
        "own": _standing_json(own),
        "host": _standing_json(host),
        "schedule": _rules_json(settings),
    }


def _volume_rows(said: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("limit", f"{said['limit']}  ({said['reason']})"),
        ("until", _until_text(said)),
        ("state", str(said["state"])),
        ("rate", f"{said['rate_bps'] / 1000:.1f} kbit/s"),
        ("lag", f"{duration_text(said['lag_s'])}, {size_text(said['lag_bytes'])} to send"),
    ]
    if said["lag_bytes"]:
        eta = said["eta_s"]
        paused = said["limit_bps"] == 0
        text = "never, while it is paused" if paused else "not known yet"
        rows.append(("ready in", text if eta is None else f"about {duration_text(eta)}"))
    return rows


def _until_text(said: dict[str, Any]) -> str:
    until_ns = said["until_ns"]
    if until_ns is None:
        return "somebody changes it"
    return f"{time_text(until_ns)}, in {duration_text((until_ns - time.time_ns()) / 1e9)}"


def _host_json(limits: HostLimit) -> dict[str, Any]:
    return {
        "host": True,
        **_standing_json(_standing(limits)),
        "schedule": _rules_json(limits),
        "volumes": list(_volumes_json()),
    }


def _volumes_json() -> list[dict[str, Any]]:
    """Who shares the host's limit, and how fast each is."""
    found = []
    for store in list_stores():
        try:
            settings = load_settings(store.root)
        except BadSettings as error:
            note(f"cdpfs: {error}")
            continue
        if settings is None:
            continue
        said = replication_of(store) or {}
        found.append(
            {
                "volume": store.config.name,
                "state": said.get("state", "down"),
                "weight": settings.weight,
                "in_force_bps": said.get("limit_bps"),
                "rate_bps": said.get("rate_bps", 0),
            }
        )
    return found


def _host_rows(said: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("limit", f"{said['limit']}  ({said['reason']})"),
        ("until", _until_text(said)),
    ]
    for each in said["volumes"]:
        text = f"{each['state']}, weight {each['weight']:g}, {each['rate_bps'] / 1000:.1f} kbit/s"
        rows.append((each["volume"], text))
    return rows
