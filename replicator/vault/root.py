"""A vault's place on disk: its folders, what it is, and the volumes that it keeps.

Duty: layout, `vault.toml`, `about.toml`, and that no name from outside becomes a path unchecked.
Blocking calls; any thread. It knows nothing of HTTP and of who may do what.

    R/vault.toml                 what the vault is; written last when it is made
    R/lock                       held (flock) by the one process that serves the vault
    R/sites/NAME.toml            who may do what (`sites`)
    R/volumes/UUID/about.toml    whose volume it is, and what its site says of it
    R/volumes/UUID/LINE/         a store: one line of the volume's history, without an intake log
    R/volumes/UUID/LINE/origin.json  where the line parts from which; not of the first (`lines`)
    R/volumes/UUID/LINE/incoming/  the shipment that is half received (`spool`)

A volume is there when its `about.toml` is, a line when its `volume.toml` is.
"""

from __future__ import annotations

import os
import re
import threading
import time
import tomllib
import uuid as uuids
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec
import tomli_w

from replicator.errors import BadRequest, NoVault, Refused, UnknownVolume, VaultExists
from replicator.wire import MAIN_LINE, Description, LineName, Uuid
from store import durable
from store.errors import StoreError, UnsupportedFormat
from store.index_env import IndexEnvironment
from store.journal import Journal
from store.volume import Store, VolumeConfig, take_lock

VAULT_VERSION: Final = 1
"""Of the layout and of the files of this module; a newer one is refused by name."""

MAX_LINES: Final = 64
MAX_SITE_VOLUMES: Final = 1000
"""Of one site. Each takes some files even when it is empty, which no quota counts."""

"""Lines of history that a volume may have."""

_UUID = re.compile(r"[0-9a-f]{32}")
_LINE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REPAIR = "mend the file by hand; the data beside it is not touched"
_T = TypeVar("_T")


class VaultConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `vault.toml` says."""

    format_version: int = VAULT_VERSION
    id: Uuid
    """Stays the same for ever."""
    created_ns: int


class About(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What `about.toml` says of a volume."""

    format_version: int = VAULT_VERSION
    site: LineName
    """Whose volume it is; no other site may write or read it."""
    description: Description


class Volume(NamedTuple):
    """One volume of a vault."""

    uuid: str
    site: str
    description: Description


def checked_uuid(text: str) -> str:
    """`text` if it is a volume's UUID, in the one spelling that is used; BadRequest if not."""
    if not _UUID.fullmatch(text):
        raise BadRequest("a volume is named by its UUID, 32 hexadecimal digits in lower case")
    return text


def checked_line(text: str) -> str:
    """`text` if it can be the name of a line; BadRequest if not."""
    if not _LINE.fullmatch(text):
        raise BadRequest("a line's name has lower-case letters, digits and -, at most 63 of them")
    return text


class VaultRoot:
    """A vault's folder. `create` makes one, `open` reads one; `close` gives everything back."""

    def __init__(self, path: Path, config: VaultConfig) -> None:
        self.path = path
        self.config = config
        self.sites_dir = path / "sites"
        self.volumes_dir = path / "volumes"
        self._lock_fd = -1
        self._guard = threading.Lock()
        self._journals: dict[tuple[str, str], tuple[IndexEnvironment | None, Journal]] = {}

    @classmethod
    def create(cls, path: Path, created_ns: int | None = None) -> VaultRoot:
        """Make a vault in a new or empty folder; VaultExists if there is something in it."""
        path = Path(os.path.abspath(path))
        if (path / "vault.toml").exists():
            raise VaultExists(f"{path} already holds a vault")
        if path.is_dir() and any(entry.name not in _PARTS for entry in path.iterdir()):
            raise VaultExists(f"{path} is not empty and not a vault", "choose an empty folder")
        now = time.time_ns() if created_ns is None else created_ns
        root = cls(path, VaultConfig(id=uuids.uuid4().hex, created_ns=now))
        durable.make_dir(path)
        os.chmod(path, 0o700)
        durable.make_dir(root.sites_dir)
        durable.make_dir(root.volumes_dir)
        _write_toml(path / "vault.toml", root.config)
        return root

    @classmethod
    def open(cls, path: Path) -> VaultRoot:
        """Read a vault's configuration; NoVault, or UnsupportedFormat for a newer one."""
        path = Path(os.path.abspath(path))
        try:
            config = _read_toml(path / "vault.toml", VaultConfig)
        except FileNotFoundError:
            raise NoVault(f"no vault at {path}") from None
        return cls(path, config)

    @property
    def id(self) -> str:
        """The vault's name among all vaults."""
        return self.config.id

    @property
    def locked(self) -> bool:
        """Is this the process that serves the vault?"""
        return self._lock_fd >= 0

    def lock(self) -> None:
        """Become the one process that writes volumes; until `close`. StoreBusy if there is one.

        Refused when others can look into the folder: it holds copies of what its sites protect.
        """
        if self.path.stat().st_mode & 0o077:
            raise Refused(f"{self.path} is open to other users", f"chmod 700 {self.path}")
        self._lock_fd = take_lock(self.path / "lock", "a vault is served by one process at a time")

    def close(self) -> None:
        """Give back journals and lock. Closing twice is fine."""
        with self._guard:
            for pin, journal in self._journals.values():
                journal.close()
                if pin is not None:
                    pin.close()
            self._journals.clear()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # --- volumes ---------------------------------------------------------------------------------

    def volumes(self) -> list[str]:
        """The UUIDs of all volumes, sorted."""
        return sorted(
            entry.name
            for entry in self.volumes_dir.iterdir()
            if _UUID.fullmatch(entry.name) and (entry / "about.toml").is_file()
        )

    def volume(self, uuid: str) -> Volume:
        """One volume; UnknownVolume, BadRequest for what is no UUID."""
        path = self._folder(uuid) / "about.toml"
        try:
            about = _read_toml(path, About)
        except FileNotFoundError:
            raise UnknownVolume(f"the vault does not know volume {uuid}") from None
        return Volume(uuid, about.site, about.description)

    def create_volume(self, site: str, uuid: str, description: Description) -> Volume:
        """The volume `uuid` of a site is kept from now on, described like this; so is its line.

        Doing it again is harmless. Refused when it is another site's, BadRequest when it can't be
        like this.
        """
        try:
            before = self.volume(uuid)
        except UnknownVolume:
            before = None
        if before is not None and before.site != site:
            raise Refused(f"volume {uuid} belongs to another site")
        if before is not None and before.description.sealed != description.sealed:
            raise Refused(
                f"volume {uuid} can't be changed between sealed and open",
                "a sealed volume stays sealed: replicate it anew under another UUID",
            )
        volume = Volume(uuid, checked_line(site), description)
        config = self._config_of(volume)
        folder = self._folder(uuid)
        if before is None:
            self._check_count(site)
            durable.make_dir(folder)
        if before is None or before.description != description:
            _write_toml(folder / "about.toml", About(site=site, description=description))
        self._create_line(volume, MAIN_LINE, config)
        return volume

    def _check_count(self, site: str) -> None:
        """Refused when a site has as many volumes as it may."""
        count = sum(self.volume(uuid).site == site for uuid in self.volumes())
        if count >= MAX_SITE_VOLUMES:
            raise Refused(
                f"{site} has {count} volumes here, which is as many as it may",
                "give a further one to another site of the vault",
            )

    # --- lines -----------------------------------------------------------------------------------

    def lines(self, uuid: str) -> list[str]:
        """The names of a volume's lines, `main` first. UnknownVolume."""
        self.volume(uuid)
        found = [
            entry.name
            for entry in self._folder(uuid).iterdir()
            if _LINE.fullmatch(entry.name) and (entry / "volume.toml").is_file()
        ]
        return sorted(found, key=lambda name: (name != MAIN_LINE, name))

    def create_line(self, uuid: str, line: str) -> Store:
        """The store of a line, made if it is new. UnknownVolume; BadRequest for too many."""
        volume = self.volume(uuid)
        lines = self.lines(uuid)
        if line not in lines and len(lines) >= MAX_LINES:
            raise BadRequest(f"volume {uuid} has {MAX_LINES} lines, which is as many as it may")
        return self._create_line(volume, line, self._config_of(volume))

    def store(self, uuid: str, line: str = MAIN_LINE) -> Store:
        """The store of a line; UnknownVolume when there is none."""
        path = self._folder(uuid) / checked_line(line)
        if not (path / "volume.toml").is_file():
            self.volume(uuid)
            raise UnknownVolume(f"volume {uuid} has no line {line}")
        return Store.open(path)

    def journal(self, uuid: str, line: str = MAIN_LINE) -> Journal:
        """The journal of a line, shared: its user does not close it. Any thread.

        The way to read in the process that serves: LMDB wants the index opened for writing before
        it is opened for reading, and only once (`store.index_env`).
        """
        key = (checked_uuid(uuid), checked_line(line))
        with self._guard:
            if key not in self._journals:
                store = self.store(*key)
                pin = IndexEnvironment(store.index_dir, write=True) if self.locked else None
                self._journals[key] = pin, Journal(store)
            return self._journals[key][1]

    def _create_line(self, volume: Volume, line: str, config: VolumeConfig) -> Store:
        path = self._folder(volume.uuid) / checked_line(line)
        if not (path / "volume.toml").is_file():
            return Store.create(path, config)
        store = Store.open(path)
        for name in ("name", "directory", "quiet_s", "point_limit_s"):
            if getattr(store.config, name) != getattr(config, name):
                store.config = config
                store.save_config()
                break
        return store

    def _config_of(self, volume: Volume) -> VolumeConfig:
        """The configuration of a volume's stores; BadRequest when there can be none."""
        known = volume.description
        values = {
            "name": known.name,
            "uuid": checked_uuid(volume.uuid),
            "directory": known.directory,
            "created_ns": known.created_ns,
            "quiet_s": known.quiet_s,
            "point_limit_s": known.point_limit_s,
            "replica": True,
        }
        try:
            return msgspec.convert(values, VolumeConfig)
        except msgspec.ValidationError as error:
            raise BadRequest(f"a volume can't be like this: {error}") from error

    def _folder(self, uuid: str) -> Path:
        return self.volumes_dir / checked_uuid(uuid)


_PARTS = {"sites", "volumes", "lock", "lost+found"}
"""What may stand in the folder of a vault that is being made."""


def _write_toml(path: Path, value: object) -> None:
    durable.write_file_atomically(path, tomli_w.dumps(msgspec.to_builtins(value)).encode())


def _read_toml(path: Path, kind: type[_T]) -> _T:
    """The file as a `kind`. FileNotFoundError, UnsupportedFormat, StoreError."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StoreError(f"{path} can't be read: {error}", _REPAIR) from error
    version = raw.get("format_version")
    if isinstance(version, int) and version > VAULT_VERSION:
        raise UnsupportedFormat(
            f"{path}: vault format {version} is newer than this cdpfs knows ({VAULT_VERSION})"
        )
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise StoreError(f"{path}: {error}", _REPAIR) from error
