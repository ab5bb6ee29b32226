"""A store's place on disk: its folders, its configuration, its lock, and how stores are found.

Duty: layout and `volume.toml`. Blocking calls; any thread. It knows nothing of ops.

    ROOT/volume.toml     what the volume is (below)
    ROOT/lock            held (flock) by fsd while the volume is mounted
    ROOT/indexer.lock    held (flock) by the one writer of the index
    ROOT/state           the shared page (`statepage`)
    ROOT/control.sock    the control socket
    ROOT/intake/         ring files 0000.ring …
    ROOT/segments/       segments
    ROOT/index/          the LMDB environment
    ROOT/log/            logs of the daemon and of what it keeps running
    ROOT/holds/          up to where each consumer of the journal has got (`holds`)
    ROOT/replica.toml    where the replica is (replicator); ROOT/outgoing/ what is on its way there
"""

from __future__ import annotations

import fcntl
import os
import re
import tomllib
import uuid as uuids
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w

from store import durable
from store.barrier_state import ConfiguredGroup, Settings
from store.errors import (
    BadSettings,
    NoSuchVolume,
    StoreBusy,
    StoreError,
    UnsupportedFormat,
    VolumeExists,
)
from store.format import FORMAT_VERSION

MIN_RING_FILES = 3
"""One that is written, one that comes next, one that is being indexed."""

MIN_RING_FILE_BYTES = 8 << 20
"""More than twice what a single request may append; smaller ones can only be read."""


class GroupConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A `[[groups]]` of `volume.toml`: one consistency group, whoever writes to its files."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    paths: Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]
    """Globs on paths relative to the volume's root; `**` spans directories."""


class VolumeConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `volume.toml` says. Paths are text with surrogateescape for undecodable bytes."""

    format_version: int = FORMAT_VERSION
    name: str
    uuid: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    """32 hexadecimal digits."""
    directory: Annotated[str, msgspec.Meta(pattern="^/")]
    """The protected tree, absolute."""
    mount_at: str = ""
    """Where it is mounted; empty for in place."""
    created_ns: int
    capture: Literal["exact", "coalesced"] = "exact"
    fsync: Literal["intake", "both"] = "intake"
    """`intake`: fsync waits for the intake log; `both`: for the backing file too."""
    protect: Literal["availability", "strict"] = "availability"
    """When nothing can be logged: go on and find the changes later, or refuse them."""
    ring_files: Annotated[int, msgspec.Meta(ge=MIN_RING_FILES, le=1024)] = 8
    ring_file_bytes: Annotated[int, msgspec.Meta(ge=1 << 14, le=1 << 40)] = 128 << 20
    """At least MIN_RING_FILE_BYTES to be mounted."""
    seed_rate_bytes_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Pace of the initial backup; 0 for as fast as it goes beside the applications."""
    quiet_s: Annotated[float, msgspec.Meta(ge=0.1, le=86400)] = 2.0
    """Files that nobody has changed for so long are at a `sync` point."""
    point_limit_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How long before the time asked for a recovery point may lie for it to be taken."""
    foreign_lsn: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Up to this LSN the log was written on another machine, from whose replica the volume was
    recovered: inode numbers in it mean nothing here. 0: all of it was written here."""
    replica: bool = False
    """Its log is received from another site: it has no intake log, and nothing is mounted over its
    directory, whose path is one at that site."""
    groups: Annotated[list[GroupConfig], msgspec.Meta(max_length=64)] = []
    """Files that belong together though nothing shows it."""

    @property
    def mount_point(self) -> str:
        """Where applications see the tree."""
        return self.mount_at or self.directory


class Store:
    """One store. Create it with `create`, find it with `open` or `find_store`."""

    def __init__(self, root: Path, config: VolumeConfig) -> None:
        self.root = root
        self.config = config
        self.uuid = bytes.fromhex(config.uuid)
        self.intake_dir = root / "intake"
        self.segments_dir = root / "segments"
        self.index_dir = root / "index"
        self.log_dir = root / "log"
        self.state_path = root / "state"
        self.lock_path = root / "lock"
        self.indexer_lock_path = root / "indexer.lock"
        self.socket_path = root / "control.sock"

    @classmethod
    def create(cls, root: Path, config: VolumeConfig) -> Store:
        """Make the folders and write `volume.toml` last; VolumeExists if there is a store."""
        root = Path(os.path.abspath(root))
        if (root / "volume.toml").exists():
            raise VolumeExists(f"{root} already holds a store")
        if root.is_dir() and any(p.name not in _FOLDERS for p in root.iterdir()):
            raise VolumeExists(f"{root} is not empty and not a store", "choose an empty folder")
        store = cls(root, config)
        durable.make_dir(root)
        os.chmod(root, 0o700)
        for folder in (store.intake_dir, store.segments_dir, store.index_dir, store.log_dir):
            durable.make_dir(folder)
        store.save_config()
        return store

    @classmethod
    def open(cls, root: Path) -> Store:
        """Read a store's configuration; NoSuchVolume or UnsupportedFormat."""
        root = Path(os.path.abspath(root))
        path = root / "volume.toml"
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise NoSuchVolume(f"no cdpfs store at {root}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise StoreError(f"{path} can't be read: {error}", _REPAIR_CONFIG) from error
        version = raw.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UnsupportedFormat(
                f"{path}: store format {version} is newer than this cdpfs knows ({FORMAT_VERSION})"
            )
        try:
            config = config_of(raw)
        except msgspec.ValidationError as error:
            raise StoreError(f"{path}: {error}", _REPAIR_CONFIG) from error
        return cls(root, config)

    def save_config(self) -> None:
        """Write `volume.toml` atomically."""
        text = tomli_w.dumps(config_values(self.config))
        durable.write_file_atomically(self.root / "volume.toml", text.encode())

    @property
    def barrier_settings(self) -> Settings:
        """What a MOUNT op is to say about barriers."""
        groups = (ConfiguredGroup(g.name, tuple(g.paths)) for g in self.config.groups)
        return Settings(int(self.config.quiet_s * 1e9), tuple(groups))

    def lock(self) -> int:
        """Take the volume for a session; returns the descriptor to keep. StoreBusy if taken."""
        return take_lock(self.lock_path)


_FOLDERS = {"intake", "segments", "index", "log"}
_REPAIR_CONFIG = "mend volume.toml by hand; the data beside it is not touched"


def take_lock(path: Path, hint: str | None = None) -> int:
    """Lock the file at `path` for this process; returns its descriptor.

    StoreBusy if taken, with `hint` for what to do, if that is not a store's own.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreBusy(f"{path.parent} is in use by another cdpfs process", hint) from None
    return fd


def is_locked(path: Path) -> bool:
    """Has some process the lock at `path` now?"""
    try:
        os.close(take_lock(path))
    except StoreBusy:
        return True
    return False


def config_values(config: VolumeConfig) -> dict[str, object]:
    """A configuration as `volume.toml` has it: text, numbers, lists; no surrogates."""
    values: dict[str, object] = msgspec.to_builtins(config)
    values |= {"directory": _printable(config.directory), "mount_at": _printable(config.mount_at)}
    return values


def config_of(values: dict[str, object]) -> VolumeConfig:
    """The inverse; msgspec.ValidationError when the values can't be a volume's."""
    config = msgspec.convert(values, VolumeConfig)
    config.directory = _surrogates(config.directory)
    config.mount_at = _surrogates(config.mount_at)
    return config


def _printable(path: str) -> str:
    """A path as TOML text: undecodable bytes and the backslash itself as \\xNN."""
    return os.fsencode(path).replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")


def _surrogates(text: str) -> str:
    """The inverse of `_printable`."""
    if "\\" not in text:
        return text
    raw = re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode("utf-8")
    )
    return os.fsdecode(raw)


def new_config(directory: str, created_ns: int, **settings: object) -> VolumeConfig:
    """The configuration of a new volume for `directory` (absolute), named after its path.

    BadSettings when a setting is not one that a volume can have.
    """
    values = {
        "name": volume_name(directory),
        "uuid": uuids.uuid4().hex,
        "directory": directory,
        "created_ns": created_ns,
        **settings,
    }
    try:
        return msgspec.convert(values, VolumeConfig)
    except msgspec.ValidationError as error:
        raise BadSettings(f"a volume can't be made like this: {error}") from error


def volume_name(directory: str) -> str:
    """A readable name, unique by path: the last parts of the path and eight hex digits."""
    digest = blake2b(os.fsencode(directory), digest_size=4).hexdigest()
    words = re.sub(r"[^A-Za-z0-9]+", "-", directory).strip("-")[-40:].strip("-") or "root"
    return f"{words}-{digest}"


def stores_home() -> Path:
    """Where stores live unless told otherwise: /var/lib/cdpfs for root, else the user's data."""
    if chosen := os.environ.get("CDPFS_HOME"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/cdpfs")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local/share") / "cdpfs"


def default_store_root(directory: str) -> Path:
    """The store of `directory` unless told otherwise."""
    return stores_home() / volume_name(directory)


def register(store: Store) -> None:
    """Make a store outside the usual place findable by its directory."""
    home = stores_home()
    durable.make_dir(home)
    if store.root.parent == home:
        return
    link = home / f"{volume_name(store.config.directory)}.link"
    durable.drop(link)
    link.symlink_to(store.root)
    durable.fsync_dir(home)


def list_stores() -> list[Store]:
    """Every store that is known to this user; unreadable ones are left out."""
    home = stores_home()
    if not home.is_dir():
        return []
    found = []
    for entry in sorted(home.iterdir()):
        try:
            found.append(Store.open(entry.resolve()))
        except (StoreError, OSError):
            continue
    return found


def find_store(path: str | bytes) -> Store:
    """The store of the volume that `path` lies in (by directory or mount point).

    The innermost volume wins. NoSuchVolume when there is none.
    """
    asked = os.path.abspath(os.fsdecode(path))
    best: tuple[int, Store] | None = None
    for store in list_stores():
        for base in {store.config.directory, store.config.mount_point}:
            inside = asked == base or asked.startswith(base.rstrip("/") + "/")
            if inside and (best is None or len(base) > best[0]):
                best = (len(base), store)
    if best is None:
        raise NoSuchVolume(f"{asked} is not in a protected directory")
    return best[1]
