"""`cdpfs protect`, `mount` and `umount`.

Duty: make a volume's store, bring its daemon up and take it down, and say what is now true. The
checks of a directory and of a store's place are fsd's; here they get their order.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from console import daemon
from console.control import Control, Json, connect_if_mounted
from console.errors import ConsoleError, DaemonError, NotMounted, WrongUse
from console.exit_codes import ExitCode
from console.output import note, say, size_text
from console.volumes import volume_of
from store.errors import NoSuchVolume, StoreFull, VolumeExists
from store.volume import Store, VolumeConfig, default_store_root, list_stores, new_config, register


@dataclass(frozen=True)
class Wishes:
    """What a person asked for a volume; None leaves it as it is, or at its default."""

    store: str | None = None
    mount_at: str | None = None
    name: str | None = None
    capture: str | None = None
    protect: str | None = None
    ring_files: int | None = None
    ring_file_bytes: int | None = None
    seed_rate_bytes_s: int | None = None

    def settings(self) -> dict[str, object]:
        """The wishes as settings of `volume.toml`."""
        values = {
            "mount_at": None if self.mount_at is None else os.path.realpath(self.mount_at),
            "name": self.name,
            "capture": self.capture,
            "protect": self.protect,
            "ring_files": self.ring_files,
            "ring_file_bytes": self.ring_file_bytes,
            "seed_rate_bytes_s": self.seed_rate_bytes_s,
        }
        return {key: value for key, value in values.items() if value is not None}


ROOM_BYTES = 64 << 20
"""What a new store needs beside its intake log, for the first segment and the index."""

FIXED_SETTINGS = ("name", "ring_files", "ring_file_bytes")
"""What can't change once the volume exists."""


def protect(directory: str, wishes: Wishes, foreground: bool) -> None:
    """Make the volume unless it exists, and mount it."""
    directory = os.path.realpath(directory)
    store = _existing(directory, wishes)
    created = store is None
    if store is not None:
        _refuse_if_mounted(store)
    if wishes.mount_at is not None:
        _clear_the_way(os.path.realpath(wishes.mount_at), directory)
    if store is None:
        store = _create(directory, wishes)
    else:
        _change_settings(store, wishes)
    if foreground:
        run_in_foreground(store)
    try:
        _bring_up(store)
    except DaemonError as error:
        # A refusal says all there is to say; after a sudden death the log in the store is needed.
        if created and error.kind:
            _forget(store)
        raise
    _say_protected(store, created)


def mount(path: str, store_root: str | None, foreground: bool) -> None:
    """Mount a volume that exists."""
    store = volume_of(path, store_root)
    _refuse_if_mounted(store)
    if foreground:
        run_in_foreground(store)
    _bring_up(store)
    say(f"mounted  {store.config.mount_point}")


def unmount(path: str, store_root: str | None) -> None:
    """Take a volume's mount away; returns when the daemon is gone and everything is indexed."""
    store = volume_of(path, store_root)
    # Otherwise this very process would keep the mount busy when it was started inside it.
    os.chdir("/")
    try:
        control = Control(store)
    except ConsoleError:
        if not daemon.clear_stale_mount(store.config.mount_point):
            raise
        say(f"unmounted  {store.config.mount_point} (its daemon was gone already)")
        return
    with control:
        pid = control.daemon_pid
        # The daemon may be gone before its answer is; what counts is whether the mount is.
        with contextlib.suppress(NotMounted):
            control.call("umount")
    daemon.wait_gone(store, pid)
    if daemon.is_mounted(store.config.mount_point):
        raise NotMounted(
            f"the daemon ended, but the mount at {store.config.mount_point} is still there",
            f"cdpfs umount {store.config.mount_point}",
        )
    say(f"unmounted  {store.config.mount_point}")


def _existing(directory: str, wishes: Wishes) -> Store | None:
    """The store that `directory` already has; VolumeExists when it is not the one wished for."""
    wished = None if wishes.store is None else Path(os.path.realpath(wishes.store))
    known = [store for store in list_stores() if store.config.directory == directory]
    for store in known:
        if wished is None or store.root.resolve() == wished:
            return store
    if known:
        raise VolumeExists(
            f"{directory} already has its store in {known[0].root}",
            f"leave --store away, or move that store first (see docs/operations.md): "
            f"cdpfs protect {directory}",
        )
    if wished is None:
        return None
    try:
        store = Store.open(wished)
    except NoSuchVolume:
        return None
    if store.config.directory != directory:
        raise VolumeExists(
            f"{wished} is the store of {store.config.directory}, not of {directory}",
            "name another --store",
        )
    register(store)
    return store


def _create(directory: str, wishes: Wishes) -> Store:
    """Check everything that can be checked beforehand, then make the store."""
    from fsd.mountpoint import check_directory, check_store_place

    root = Path(wishes.store) if wishes.store is not None else default_store_root(directory)
    root = Path(os.path.realpath(root))
    refuse_overlap(directory)
    check_directory(directory)
    check_store_place(directory, root)
    config = new_config(directory, time.time_ns(), **wishes.settings())
    _check_space(root, config)
    store = Store.create(root, config)
    register(store)
    return store


def _check_space(root: Path, config: VolumeConfig) -> None:
    """The intake log is written out in full when the volume is made."""
    above = root
    while not above.exists():
        above = above.parent
    disk = os.statvfs(above)
    free = disk.f_bavail * disk.f_frsize
    needed = config.ring_files * config.ring_file_bytes + ROOM_BYTES
    if free < needed:
        raise StoreFull(
            f"the store needs {size_text(needed)} to begin with, and {above} has "
            f"{size_text(free)} free",
            "free some space, name a store on another disk (--store DIR), or take a smaller "
            "intake log (--ring-file-bytes 16M)",
        )


def refuse_overlap(directory: str) -> None:
    """One tree belongs to one volume."""
    for store in list_stores():
        other = store.config.directory
        if directory.startswith(other.rstrip("/") + "/"):
            raise VolumeExists(
                f"{directory} lies in {other}, which is protected already",
                f"nothing is to do: cdpfs status {other}",
            )
        if other.startswith(directory.rstrip("/") + "/"):
            raise VolumeExists(
                f"{other} inside {directory} is protected already",
                f"protect directories beside it, or give that volume up first "
                f"(see docs/operations.md): {store.root}",
            )


def _refuse_if_mounted(store: Store) -> None:
    control = connect_if_mounted(store)
    if control is None:
        return
    pid = control.daemon_pid
    control.close()
    where = store.config.mount_point
    raise ConsoleError(
        f"{where} is protected and mounted already (daemon pid {pid})",
        f"see how it is: cdpfs status {where}",
        code=ExitCode.BUSY,
    )


def _change_settings(store: Store, wishes: Wishes) -> None:
    """Take over the wishes that a volume can change; refuse the others by name."""
    changed = {
        key: value
        for key, value in wishes.settings().items()
        if getattr(store.config, key) != value
    }
    for key in FIXED_SETTINGS:
        if key in changed:
            option = "--" + key.replace("_", "-")
            raise WrongUse(
                f"{option} is {getattr(store.config, key)} since the volume was made",
                f"leave {option} away",
            )
    if changed:
        for key, value in changed.items():
            setattr(store.config, key, value)
        store.save_config()


def _bring_up(store: Store) -> None:
    _clear_the_way(store.config.mount_point, store.config.directory)
    with contextlib.closing(PhaseLine()) as line:
        daemon.start(store, line.show)


def _clear_the_way(where: str, directory: str) -> None:
    """Take a dead mount away, and see that a mount point elsewhere can be one."""
    if daemon.clear_stale_mount(where):
        note(f"took away the dead mount at {where}, whose daemon was gone")
    if where == directory:
        return
    hint = "make an empty directory outside the protected one: mkdir MNT, then --at MNT"
    if not os.path.isdir(where):
        raise WrongUse(f"the mount point {where} is not a directory", hint)
    if (where + "/").startswith(directory.rstrip("/") + "/"):
        raise WrongUse(f"the mount point {where} lies inside {directory}", hint)
    if os.listdir(where):
        raise WrongUse(f"the mount point {where} is not empty", hint)


def run_in_foreground(store: Store) -> NoReturn:
    """Become the daemon. Under systemd (NOTIFY_SOCKET) a child reports when the mount answers."""
    where = store.config.mount_point
    _clear_the_way(store.config.mount_point, store.config.directory)
    arguments = daemon.command(store)
    notify = os.environ.get("NOTIFY_SOCKET")
    if notify:
        arguments += ["--ready-fd", str(_notify_when_ready(notify))]
    else:
        note(f"protecting {where} in the foreground; press Ctrl-C to unmount")
    os.chdir("/")
    os.execve(arguments[0], arguments, daemon.environment())


def _notify_when_ready(address: str) -> int:
    """Have a process wait for the daemon's first word and hand it on to systemd.

    Returns the descriptor that the daemon writes to. The protocol is that of sd_notify(3).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(reader)
        os.waitpid(child, 0)
        os.set_inheritable(writer, True)
        return writer
    os.close(writer)
    # The one that waits is a grandchild: the daemon would not know of a child to be reaped.
    if not os.fork() and daemon.was_ready(reader):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)
    os._exit(0)


def _forget(store: Store) -> None:
    """Take away a store whose volume never came to life, so that the next try starts afresh."""
    root = default_store_root(store.config.directory)
    link = root.with_name(root.name + ".link")
    if link.is_symlink():
        link.unlink()
    for entry in store.root.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    # A folder that was there before, empty, may be a mount point that can't be removed.
    with contextlib.suppress(OSError):
        store.root.rmdir()


def _say_protected(store: Store, created: bool) -> None:
    where = store.config.mount_point
    say(f"protected  {where}" + ("" if created else "  (as before)"))
    say(f"store      {store.root}")
    with Control(store) as control:
        seeding = _seeding(control.call("status"))
    if seeding:
        say(f"existing   {seeding}")
    say()
    say("Go on working there. Whenever you want something back:")
    shown = shlex.quote(where)
    say(f"  ls {shown}/.snapshots/@-10m/        the directory as it was ten minutes ago")
    say(f"  cdpfs history {shown}/FILE          when it changed, and who did it")
    say(f"  cdpfs restore {shown}/FILE --at @-10m")


def _seeding(status: Json) -> str:
    """How the initial backup stands; empty when it is complete."""
    seeding = status.get("seeding")
    if not isinstance(seeding, dict) or seeding.get("complete"):
        return ""
    done, total = (int(seeding.get(key) or 0) for key in ("done_bytes", "total_bytes"))
    return (
        f"{size_text(done)} of {size_text(total)} copied into the store so far; this goes on "
        "behind, and every moment from now on can be restored already"
    )


class PhaseLine:
    """What a starting daemon is busy with: one line that changes, or a line for each phase."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._phase: object = None

    def show(self, progress: Json) -> None:
        """Say how far it is."""
        phase = progress.get("phase")
        counts = ", ".join(f"{value} {key}" for key, value in progress.items() if key != "phase")
        if self._is_terminal:
            print(f"\r\x1b[K{phase}: {counts}", end="", file=sys.stderr, flush=True)
        elif phase != self._phase:
            note(f"{phase} ...")
        self._phase = phase

    def close(self) -> None:
        """The line has served."""
        if self._is_terminal and self._phase is not None:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
