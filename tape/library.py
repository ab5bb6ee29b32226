"""The library home: the folder that `--library L` names, virtual or real.

Duty: `library.toml` with bounds and clear errors; making either kind; opening it for one process at
a time. Blocking calls; any thread may open, one uses what it got. It knows nothing of volumes.

    L/library.toml   what the library is
    L/lock           held (flock) by the one process that works with it; names that process
    L/catalogue/     what is on the cartridges (`tape/catalogue_file.py`)
    L/slots.json, L/cartridges/   of a virtual library, see `tape/virtual_library.py`
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w

import store.errors
from store import durable
from store.toml_file import read_toml
from tape.changer import Changer
from tape.drive import Drive
from tape.errors import (
    BadSettings,
    LibraryBusy,
    LibraryExists,
    LibraryUnwritable,
    NoSuchLibrary,
)
from tape.layout import DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Uuid
from tape.mtx_changer import MtxChanger
from tape.st_drive import StDrive
from tape.st_ioctl import check_node
from tape.virtual_library import VirtualLibrary, VirtualShape, make_folders

FILE_NAME = "library.toml"
LOCK_NAME = "lock"
CATALOGUE_NAME = "catalogue"
DEFAULT_DOORS = 4
SHIPPED_SCRIPT = Path(__file__).resolve().parents[1] / "packaging" / "tape" / "mtx-changer"
_MAX_HOLDER_BYTES = 256
_EARLY_WARNING_PART = 32
_EARLY_WARNING_BYTES = 64 << 20
_EARLY_WARNING_BLOCKS = 4
_MEND = "mend it, or take it from a copy"


class RealShape(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where a real library's devices are."""

    changer: Annotated[str, msgspec.Meta(pattern="^/", max_length=4096)]
    """The changer's node, such as /dev/sg3: what the changer script is told."""
    changer_script: Annotated[str, msgspec.Meta(pattern="^/", max_length=4096)]
    """A program with the mtx-changer contract."""
    drives: Annotated[
        list[Annotated[str, msgspec.Meta(pattern="^/", max_length=4096)]],
        msgspec.Meta(min_length=1, max_length=64),
    ]
    """The non-rewinding nodes (/dev/nst0), in the order of the changer's drives."""


class LibrarySettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """All of `library.toml`. One of `virtual` and `real` is there, as `kind` says."""

    kind: Literal["virtual", "real"]
    uuid: Uuid
    block_bytes: Annotated[int, msgspec.Meta(ge=MIN_BLOCK_BYTES, le=MAX_BLOCK_BYTES)] = (
        DEFAULT_BLOCK_BYTES
    )
    cleaning_prefix: Annotated[str, msgspec.Meta(pattern="^[A-Z]{0,8}$")] = "CLN"
    """A cartridge whose barcode begins like this cleans drives; empty for none."""
    virtual: VirtualShape | None = None
    real: RealShape | None = None


@dataclass(frozen=True)
class Library:
    """An open library."""

    home: Path
    settings: LibrarySettings
    drives: tuple[Drive, ...]
    changer: Changer
    virtual: VirtualLibrary | None = None
    """What a person does at a virtual library."""

    @property
    def capacity_bytes(self) -> int:
        """Of a cartridge; 0 when it is not known."""
        shape = self.settings.virtual
        return shape.capacity_bytes if shape is not None else 0

    @property
    def catalogue(self) -> Path:
        """The folder of the catalogue."""
        return self.home / CATALOGUE_NAME


def create_virtual(
    home: Path,
    *,
    capacity_bytes: int,
    slots: int = 20,
    doors: int = DEFAULT_DOORS,
    drives: int = 2,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    cartridges: int | None = None,
    cleaning_cartridges: int = 1,
    barcode_prefix: str = "A",
    early_warning_bytes: int = 0,
) -> LibrarySettings:
    """Make a virtual library in a folder: blank cartridges in all slots, cleaning ones in the last.

    `early_warning_bytes`: 0 for what suits the capacity. LibraryExists, BadSettings.
    """
    warning = early_warning_bytes or _early_warning(capacity_bytes, block_bytes)
    shape: dict[str, object] = {
        "slots": slots,
        "doors": doors,
        "drives": drives,
        "capacity_bytes": capacity_bytes,
        "early_warning_bytes": warning,
        "barcode_prefix": barcode_prefix,
    }
    settings = _new("virtual", block_bytes, shape)
    assert settings.virtual is not None
    if cartridges is None:
        cartridges = max(0, slots - cleaning_cartridges)
    with _possible(home):
        _check_place(home)
        make_folders(home)
    library = VirtualLibrary(home, settings.virtual, settings.cleaning_prefix)
    library.make(cartridges, cleaning_cartridges)
    _save(home, settings)
    return settings


def create_real(
    home: Path,
    *,
    changer: str,
    drives: Sequence[str],
    changer_script: str = "",
    block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> LibrarySettings:
    """Make a folder the home of a real library; nothing is moved, and no cartridge is touched.

    `changer_script`: "" for the one that cdpfs brings. LibraryExists; BadSettings when a node is
    not what it should be, or the changer does not answer as the script's contract asks.
    """
    script = changer_script or str(SHIPPED_SCRIPT)
    shape: dict[str, object] = {
        "changer": changer,
        "changer_script": script,
        "drives": list(drives),
    }
    settings = _new("real", block_bytes, shape)
    assert settings.real is not None
    with _possible(home):
        _check_place(home)
    if not os.access(script, os.X_OK):
        raise BadSettings(f"{script} is no program that can be run", "name it: --changer-script")
    for node in settings.real.drives:
        try:
            check_node(node)
        except OSError as error:
            raise BadSettings(f"{node}: {error.strerror}", "`lsscsi -g` lists drives") from error
    found = len(_real_changer(settings.real).inventory().drives)
    if found != len(drives):
        raise BadSettings(
            f"the changer has {found} drives, and {len(drives)} were named",
            "name the node of each drive, in the changer's order: --drive /dev/nst0 --drive ...",
        )
    with _possible(home):
        durable.make_dir(home)
    _save(home, settings)
    return settings


def load_settings(home: Path) -> LibrarySettings:
    """What the library in a folder is. NoSuchLibrary, BadSettings."""
    path = home / FILE_NAME
    try:
        values = read_toml(path, dict[str, object], "a library's description")
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchLibrary(f"there is no library at {home}") from None
    except store.errors.BadSettings as error:
        raise BadSettings(str(error), _MEND) from error
    return _checked(values, str(path))


@contextlib.contextmanager
def open_library(home: Path, doing: str) -> Iterator[Library]:
    """The library, for this process alone until the block ends; its drives are closed then.

    `doing` is what others are told who find it busy. LibraryBusy, LibraryUnwritable,
    NoSuchLibrary, BadSettings.
    """
    settings = load_settings(home)
    with _locked(home, doing):
        library = _library(home, settings)
        try:
            yield library
        finally:
            for drive in library.drives:
                drive.close()


def _library(home: Path, settings: LibrarySettings) -> Library:
    if settings.real is not None:
        real = settings.real
        nodes = tuple(StDrive(node, number) for number, node in enumerate(real.drives))
        return Library(home, settings, nodes, _real_changer(real))
    assert settings.virtual is not None
    virtual = VirtualLibrary(home, settings.virtual, settings.cleaning_prefix)
    return Library(home, settings, virtual.drives, virtual.changer, virtual)


def _real_changer(shape: RealShape) -> MtxChanger:
    return MtxChanger(shape.changer_script, shape.changer, shape.drives)


@contextlib.contextmanager
def _locked(home: Path, doing: str) -> Iterator[None]:
    try:
        fd = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, *durable.NO_SPACE):
            raise
        raise LibraryUnwritable(f"nothing can be written to {home}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, _MAX_HOLDER_BYTES, 0).decode(errors="replace").strip()
            raise LibraryBusy(f"{home} is in use by {holder or 'another process'}") from None
        os.truncate(fd, 0)
        # Only for people: on a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            us = f"process {os.getpid()} ({doing})\n".encode()
            os.pwrite(fd, us[:_MAX_HOLDER_BYTES], 0)
        yield
        os.truncate(fd, 0)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _possible(home: Path) -> Iterator[None]:
    """BadSettings where no folder can be at all: below a file, in /proc."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL):
            raise
        raise BadSettings(
            f"there can be no library at {home}: {error.strerror}",
            "choose another place: a folder, or where one can be made",
        ) from error


def _check_place(home: Path) -> None:
    """LibraryExists unless the place is free, or what a creation that was cut short left there."""
    if (home / FILE_NAME).exists():
        raise LibraryExists(f"there is a library at {home} already", "choose another place")
    if home.exists():
        known = {CATALOGUE_NAME, LOCK_NAME, "cartridges"}
        strange = [n for n in os.listdir(home) if n.split(".")[0] not in known | {"slots"}]
        if strange:
            raise LibraryExists(f"{home} is not empty: {strange[0]!r} is in it", "choose another")


def _new(kind: str, block_bytes: int, shape: dict[str, object]) -> LibrarySettings:
    values = {"kind": kind, "uuid": uuid.uuid4().hex, "block_bytes": block_bytes, kind: shape}
    try:
        return _checked(values, "these")
    except BadSettings as error:
        hint = "choose other numbers: cdpfs tape create-library --help"
        raise BadSettings(str(error), hint) from error


def _checked(values: dict[str, object], what: str) -> LibrarySettings:
    try:
        settings = msgspec.convert(values, LibrarySettings)
    except msgspec.ValidationError as error:
        raise BadSettings(f"{what} can't be a library's settings: {error}", _MEND) from error
    if settings.block_bytes % MIN_BLOCK_BYTES:
        raise BadSettings(f"{what}: block_bytes is no multiple of {MIN_BLOCK_BYTES}", _MEND)
    for kind, part in (("virtual", settings.virtual), ("real", settings.real)):
        if (part is not None) != (kind == settings.kind):
            raise BadSettings(f"{what}: there must be a [{settings.kind}] part and no other", _MEND)
    shape = settings.virtual
    if shape is not None and 2 * shape.early_warning_bytes > shape.capacity_bytes:
        raise BadSettings(f"{what}: the early warning comes before half the cartridge", _MEND)
    return settings


def _save(home: Path, settings: LibrarySettings) -> None:
    values = {key: v for key, v in msgspec.to_builtins(settings).items() if v is not None}
    durable.write_file_atomically(home / FILE_NAME, tomli_w.dumps(values).encode())


def _early_warning(capacity_bytes: int, block_bytes: int) -> int:
    """As much as LTO leaves in proportion, but some blocks at least, and never half of it."""
    part = min(capacity_bytes // _EARLY_WARNING_PART, _EARLY_WARNING_BYTES)
    return min(max(part, _EARLY_WARNING_BLOCKS * block_bytes), capacity_bytes // 2)
