"""Starting a volume's daemon, waiting for it to go, and clearing away what a killed one left.

Duty: processes and mounts, seen from outside. Blocking; any thread. It must not know how the
daemon works, only `python -m fsd STORE_ROOT [--ready-fd N]` and the locks in the store.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from console.control import Json, connect_if_mounted, error_from
from console.errors import ConsoleError, DaemonError
from console.exit_codes import ExitCode
from fsd.mountpoint import FILESYSTEM_NAME, mounts
from store.volume import Store

_LOG_TAIL_LINES = 15
_WAIT_STEP_S = 0.01


def start(store: Store, on_progress: Callable[[Json], None] | None = None) -> None:
    """Start the daemon in the background; returns when the mount and the control socket answer.

    The daemon gets a session of its own, so that closing the terminal does not end it, and
    writes to `fsd.log`. Raises DaemonError with its reason when it can't mount.
    """
    reader, process = _launch(command(store), store.log_dir / "fsd.log")
    try:
        answer = _first_answer(reader, on_progress)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        raise
    if answer is None:
        raise _died(store, process.wait())
    if answer.get("ok") is not True:
        error = answer.get("error")
        raise error_from(error if isinstance(error, dict) else {})
    _wait_for_socket(store, process)


def start_detached(command: list[str], log_path: Path) -> Json | None:
    """Start a process of ours that takes `--ready-fd`; returns what it says when it is ready.

    None when it ended without a word.
    """
    reader, process = _launch(command, log_path)
    answer = _first_answer(reader, None)
    if answer is None or answer.get("ok") is not True:
        process.wait()
    return answer


def _launch(command: list[str], log_path: Path) -> tuple[int, subprocess.Popen[bytes]]:
    """Start a process with a session of its own; returns the pipe of its words, and it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with open(log_path, "ab") as log:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(writer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                start_new_session=True,
                cwd="/",
                env=environment(),
            )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return reader, process


def was_ready(reader: int) -> bool:
    """Whether the daemon at the other end of a pipe says that the mount answers."""
    answer = _first_answer(reader, None)
    return answer is not None and answer.get("ok") is True


def _first_answer(reader: int, on_progress: Callable[[Json], None] | None) -> Json | None:
    """What the daemon says after its progress reports; None when it dies without a word."""
    with open(reader, "rb") as lines:
        for line in lines:
            answer: Json = json.loads(line)
            progress = answer.get("progress")
            if not isinstance(progress, dict):
                return answer
            if on_progress is not None:
                on_progress(progress)
    return None


def command(store: Store) -> list[str]:
    """The daemon's command line. -P: no folder of the user's can stand in for our modules."""
    return [sys.executable, "-P", "-m", "fsd", str(store.root)]


def environment() -> dict[str, str]:
    """The daemon's environment: when cdpfs runs from a source tree, its modules are found there."""
    values = dict(os.environ)
    source = Path(__file__).resolve().parents[1]
    if (source / "pyproject.toml").is_file():
        others = values.get("PYTHONPATH")
        values["PYTHONPATH"] = f"{source}{os.pathsep}{others}" if others else str(source)
    return values


def _wait_for_socket(store: Store, process: subprocess.Popen[bytes]) -> None:
    """The daemon's first word can be there a moment before its socket is."""
    while True:
        control = connect_if_mounted(store)
        if control is not None:
            control.close()
            return
        if process.poll() is not None:
            raise _died(store, process.returncode)
        time.sleep(_WAIT_STEP_S)


def _died(store: Store, code: int) -> DaemonError:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    tail = _log_tail(store.log_dir / "fsd.log")
    return DaemonError(
        f"the daemon ended before the mount answered ({how})" + (f":\n{tail}" if tail else ""),
        f"its whole log is {store.log_dir / 'fsd.log'}",
        f"cdpfs doctor {store.config.directory}",
    )


def _log_tail(path: Path) -> str:
    lines = path.read_text("utf-8", "backslashreplace").splitlines()[-_LOG_TAIL_LINES:]
    return "\n".join("    " + line for line in lines)


def wait_gone(store: Store, pid: int) -> None:
    """Return when process `pid` (0: unknown) has ended and the indexer has finished its work."""
    if pid:
        wait_for_end(pid)
    else:
        _wait_for_lock(store.lock_path)
    _wait_for_lock(store.indexer_lock_path)


def _wait_for_lock(path: Path) -> None:
    """Return when nobody holds the lock file; the kernel drops a dead process's locks."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def wait_for_end(pid: int) -> None:
    """Return when process `pid` has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select((handle,), (), ())
    finally:
        os.close(handle)


def is_mounted(mount_point: str) -> bool:
    """Whether cdpfs is mounted there, its daemon alive or not."""
    return (mount_point, FILESYSTEM_NAME) in mounts()


def is_stale(mount_point: str) -> bool:
    """Whether a mount of ours stands there whose daemon is gone.

    statfs always asks the daemon; attributes may still be answered from the kernel's cache.
    """
    if not is_mounted(mount_point):
        return False
    try:
        os.statvfs(mount_point)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def clear_stale_mount(mount_point: str) -> bool:
    """Take away mounts there whose daemon is gone; True if there was one."""
    found = False
    while is_stale(mount_point):
        found = True
        detach(mount_point)
    return found


def detach(mount_point: str) -> None:
    """Unmount lazily, as the one who mounted it can without being root."""
    program = shutil.which("fusermount3")
    if program is None:
        raise ConsoleError(
            "fusermount3 is not installed",
            "install it: apt-get install fuse3",
            code=ExitCode.ENVIRONMENT,
        )
    done = subprocess.run(
        [program, "-u", "-z", "--", mount_point],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise ConsoleError(
            f"the dead mount at {mount_point} can't be taken away: {done.stderr.strip()}",
            f"as root: umount -l {mount_point}",
        )
