"""What a volume's `replica.toml` says: where its replica is, and how to get there.

Duty: types with bounds, reading with errors that name the line to mend, atomic writing. Secrets are
never in it, only the names of the files that hold them. Blocking calls; any thread.

    enabled = true
    weight = 1.0                      # this volume's share of the host's limit
    [link]      url, token_file, ca, client_cert, client_key, line
    [[throttle]] days, hours, rate
    [override]  rate, until_ns        # what `cdpfs throttle` set by hand
    [policy]    fold_after_s, alarm_lag_s
    [seal]      key_file
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import tomli_w

import store.errors
from replicator.calendar import Calendar, Override, parse_rate, parse_rule
from replicator.errors import BadSettings
from replicator.wire import MAIN_LINE, LineName
from store import durable
from store.toml_file import read_toml

FILE_NAME = "replica.toml"
MAX_TOKEN_BYTES = 4096
_MEND = "mend it, or write it anew: cdpfs replicate start DIR --to URL --token-file F"

AbsolutePath = Annotated[str, msgspec.Meta(pattern="^(/.*)?$", max_length=4096)]
"""Absolute, or empty for none."""
RateText = Annotated[str, msgspec.Meta(max_length=32)]
"""Bits per second, such as `56k` or `2.5M`; `off` for no limit, `pause` (or 0) for nothing."""


class LinkSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the vault is, and how it and we know each other."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    token_file: AbsolutePath = ""
    ca: AbsolutePath = ""
    """PEM of the vault's own certificate authority; empty for those of the system."""
    client_cert: AbsolutePath = ""
    client_key: AbsolutePath = ""
    line: LineName = MAIN_LINE
    """The line of history at the vault that this volume writes."""


class ThrottleSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A limit for some hours of the week, local time. The first one that fits counts."""

    days: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Such as `mon-fri` or `sat,sun`; empty for every day."""
    hours: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Such as `08:00-18:00`; empty for the whole day."""
    rate: RateText


class OverrideSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A limit set by hand. It counts before the calendar's."""

    rate: RateText
    until_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Wall time at which it ends; 0: it stays."""


class PolicySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What may be given up when the line does not keep up, and when to call a person."""

    fold_after_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """With more lag than this, writes between two barriers are folded; 0: never."""
    alarm_lag_s: Annotated[float, msgspec.Meta(ge=0)] = 900.0
    """More lag than this is an alarm; 0: never."""


class SealSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """End-to-end encryption."""

    key_file: AbsolutePath = ""
    """Holds the key that the vault does not have; empty for none."""


class ReplicaSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All of `replica.toml`."""

    enabled: bool = True
    weight: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    link: LinkSettings
    throttle: Annotated[list[ThrottleSettings], msgspec.Meta(max_length=64)] = []
    override: OverrideSettings | None = None
    policy: PolicySettings = msgspec.field(default_factory=PolicySettings)
    seal: SealSettings = msgspec.field(default_factory=SealSettings)


def settings_path(store_root: Path) -> Path:
    """Where a store keeps its settings of replication."""
    return store_root / FILE_NAME


def load_settings(store_root: Path) -> ReplicaSettings | None:
    """The settings of a store; None when it is not replicated. BadSettings."""
    path = settings_path(store_root)
    try:
        settings = read_toml(path, ReplicaSettings)
    except FileNotFoundError:
        return None
    except store.errors.BadSettings as error:
        raise BadSettings(str(error), _MEND) from error
    check_url(settings.link.url)
    calendar_of(settings.throttle, settings.override)
    return settings


def save_settings(store_root: Path, settings: ReplicaSettings) -> None:
    """Write them atomically and durably; BadSettings when they are not valid ones."""
    values = {
        key: value for key, value in msgspec.to_builtins(settings).items() if value is not None
    }
    try:
        msgspec.convert(values, ReplicaSettings)
    except msgspec.ValidationError as error:
        raise BadSettings(f"replication can't be set up like this: {error}") from error
    check_url(settings.link.url)
    calendar_of(settings.throttle, settings.override)
    durable.write_file_atomically(settings_path(store_root), tomli_w.dumps(values).encode())


def calendar_of(
    rules: list[ThrottleSettings], override: OverrideSettings | None, zone: str | None = None
) -> Calendar:
    """The calendar that settings mean. BadSettings names the rule that makes no sense."""
    parsed = []
    for number, rule in enumerate(rules, 1):
        try:
            parsed.append(parse_rule(rule.days, rule.hours, rule.rate))
        except BadSettings as error:
            raise BadSettings(f"[[throttle]] number {number}: {error}", error.hint) from error
    by_hand = None
    if override is not None:
        by_hand = Override(parse_rate(override.rate), override.until_ns)
    return Calendar(parsed, by_hand, zone)


def check_url(url: str) -> None:
    """BadSettings unless it is the address of a vault. A secret in it is refused."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadSettings(f"{url!r} is not an address: {error}", _URL_HINT) from error
    if parts.username or parts.password:
        raise BadSettings("the vault's address must not hold a password", _URL_HINT)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise BadSettings(f"{url!r} is not the address of a vault", _URL_HINT)
    if parts.query or parts.fragment:
        raise BadSettings(f"{url!r} has more than a host, a port and a path", _URL_HINT)


_URL_HINT = "such as https://vault.example.com:8443"


def read_token(path: str) -> str:
    """The token in a file, which only its owner may read. BadSettings."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise BadSettings(f"the token file {path} can't be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadSettings(f"others can read the token file {path}", f"chmod 600 {path}")
    token = raw.decode("ascii", "replace").strip()
    if not token or len(raw) > MAX_TOKEN_BYTES or not token.isprintable() or " " in token:
        raise BadSettings(
            f"{path} does not hold a token", "put what `cdpfs vault add-site` printed into it"
        )
    return token
