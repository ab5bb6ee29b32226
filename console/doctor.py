"""`cdpfs doctor`: is everything in place, and if not, what is to be done?

Duty: short independent checks of the machine and of volumes, each giving one finding. A check
never raises for what it looks for. It reads only, and quickly; `cdpfs verify` reads everything.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from console.control import STATUS_TIMEOUT_S, Control
from console.daemon import is_stale
from console.errors import ConsoleError, NotMounted
from console.exit_codes import ExitCode
from console.output import duration_text, path_text, print_json, say, size_text, time_text
from fsd.consumers import tape_alarms
from store.errors import DamagedError, StoreError
from store.key_file import read_key_file
from store.volume import Store, list_stores

OK, WARN, FAIL, DAMAGE, UNLOGGED = "ok", "warn", "FAIL", "DAMAGE", "GAP"

LOW_SPACE_SHARE = 0.05
LOW_SPACE_BYTES = 1 << 30
"""Free space of the store's disk is low below both of these."""
FULL_BYTES = 64 << 20
"""Below this the store counts as full: less than one segment fits."""
FAST_WRITES_KERNEL = (5, 11)
"""First kernel that lets a filesystem drop set-id bits itself (FUSE_HANDLE_KILLPRIV_V2); before
it, the kernel asks for `security.capability` ahead of every write."""
SANE_CLOCK_NS = 1_735_689_600 * 10**9
"""2025-01-01: a machine whose clock shows an earlier time has lost it."""
LATE_INDEXER_S = 60.0


@dataclass(frozen=True)
class Finding:
    """What one check found. `next_step` is empty when all is well."""

    level: str
    check: str
    text: str
    next_step: str = ""


def key_file_finding(check: str, path: str) -> Finding:
    """What seals what leaves the volume. Whether it has a backup, nobody can tell from here."""
    try:
        ring = read_key_file(Path(path))
    except StoreError as error:
        return Finding(FAIL, check, str(error), error.hint)
    return Finding(OK, check, f"{path}, newest key {ring.newest.id.hex()}")


def examine(path: str | None, store_root: str | None, as_json: bool) -> ExitCode:
    """Run and print all checks: of the machine, and of one volume or of all known ones."""
    findings = list(machine_findings())
    for store in _stores(path, store_root):
        findings += volume_findings(store)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{finding.level.ljust(6)}  {finding.check.ljust(16)}  {finding.text}")
            if finding.next_step:
                say(f"{' ' * 8}next: {finding.next_step}")
    return worst(findings)


def worst(findings: list[Finding]) -> ExitCode:
    """The exit code: damage first, then a gap, then failures; warnings are fine."""
    levels = {finding.level for finding in findings}
    if DAMAGE in levels:
        return ExitCode.DAMAGE
    if UNLOGGED in levels:
        return ExitCode.UNPROTECTED
    return ExitCode.FAILURE if FAIL in levels else ExitCode.OK


def _stores(path: str | None, store_root: str | None) -> list[Store]:
    from console.volumes import volume_of

    if path is None and store_root is None:
        return list_stores()
    return [volume_of(path or ".", store_root)]


# The machine


def machine_findings() -> Iterator[Finding]:
    """Checks that concern no volume."""
    yield _fuse_device(Path("/dev/fuse"))
    yield _fusermount()
    yield _libfuse()
    yield _allow_other(Path("/etc/fuse.conf"), os.geteuid() == 0)
    yield _kernel(platform.release())
    yield _clock(time.time_ns())


def _fuse_device(path: Path) -> Finding:
    check = "fuse device"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Finding(
            FAIL,
            check,
            f"{path}: {error.strerror}",
            "as root: modprobe fuse (or see scripts/setup)",
        )
    if not stat.S_ISCHR(mode):
        return Finding(FAIL, check, f"{path} is no device", f"as root: mknod {path} c 10 229")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding(FAIL, check, f"{path} is not for this user", f"as root: chmod 666 {path}")
    return Finding(OK, check, f"{path} can be opened")


def _fusermount() -> Finding:
    program = shutil.which("fusermount3")
    if program is None:
        return Finding(FAIL, "fusermount3", "fusermount3 is not installed", "apt-get install fuse3")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace")
    version = done.stdout.strip().rpartition(" ")[2]
    if os.geteuid() != 0 and not os.stat(program).st_mode & stat.S_ISUID:
        return Finding(
            FAIL,
            "fusermount3",
            f"{program} is not set-uid root, so only root can mount",
            f"as root: chmod u+s {program}",
        )
    return Finding(OK, "fusermount3", f"version {version}")


def _libfuse() -> Finding:
    try:
        library = ctypes.CDLL("libfuse3.so.3")
    except OSError as error:
        return Finding(FAIL, "libfuse", str(error), "apt-get install libfuse3-3")
    number = library.fuse_version()
    return Finding(OK, "libfuse", f"version {number // 100}.{number % 100}")


def _allow_other(path: Path, is_root: bool) -> Finding:
    """Without user_allow_other, what an ordinary user mounts is closed to everybody else."""
    check = "other users"
    if is_root:
        return Finding(OK, check, "root's mounts are open to other users")
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    if any(line.strip() == "user_allow_other" for line in lines):
        return Finding(OK, check, f"{path} has user_allow_other")
    return Finding(
        WARN,
        check,
        "your mounts are closed to other users, root included",
        f"if others shall use them: add the line user_allow_other to {path}",
    )


def _kernel(release: str) -> Finding:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < FAST_WRITES_KERNEL:
        wanted = ".".join(map(str, FAST_WRITES_KERNEL))
        return Finding(
            WARN, "kernel", f"{release}: small writes are slow before {wanted}", "a newer kernel"
        )
    return Finding(OK, "kernel", release)


def _clock(now_ns: int) -> Finding:
    if now_ns < SANE_CLOCK_NS:
        year = time.gmtime(now_ns // 10**9).tm_year
        return Finding(FAIL, "clock", f"it says {year}", "set it, and let it be kept: timedatectl")
    return Finding(OK, "clock", "the date is plausible")


# A volume


def volume_findings(store: Store) -> Iterator[Finding]:
    """Checks of one volume."""
    from console.doctor_replica import replica_findings
    from console.doctor_tape import tape_findings

    yield Finding(OK, "volume", f"{path_text(store.config.directory)}, store {store.root}")
    yield _free_space(store)
    yield _journal(store)
    yield from _daemon(store)
    yield from replica_findings(store)
    yield from tape_findings(store)


def _free_space(store: Store) -> Finding:
    disk = os.statvfs(store.root)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    text = f"{size_text(free)} free of {size_text(total)} at {store.root}"
    next_step = "free some space there, or move the store (see docs/operations.md)"
    if free < FULL_BYTES:
        return Finding(FAIL, "store space", text, next_step)
    if free < LOW_SPACE_BYTES and free < total * LOW_SPACE_SHARE:
        return Finding(WARN, "store space", text, next_step)
    return Finding(OK, "store space", text)


def _journal(store: Store) -> Finding:
    from store.journal import Journal

    directory = store.config.directory
    try:
        if not any(store.index_dir.iterdir()):
            return Finding(
                WARN, "journal", "there is no index", f"rebuild it: cdpfs reindex {directory}"
            )
        journal = Journal(store)
        try:
            newest = journal.last()
        finally:
            journal.close()
    except DamagedError as error:
        return Finding(DAMAGE, "journal", str(error), error.hint)
    except (StoreError, OSError) as error:
        hint = error.hint if isinstance(error, StoreError) else f"cdpfs verify {directory}"
        return Finding(FAIL, "journal", str(error), hint)
    if newest is None:
        return Finding(OK, "journal", "nothing is in it yet")
    ahead_s = (newest.time_ns - time.time_ns()) / 1e9
    if ahead_s > 1:
        return Finding(
            WARN,
            "journal",
            f"the log's clock is ahead of the machine's by {duration_text(ahead_s)}: the clock was "
            "set back",
            "check the clock. Until it has caught up, times of changes stand still, and a time "
            "means the newest state noted at it, to half a minute; @lsn:N and marks are exact",
        )
    return Finding(OK, "journal", f"readable up to LSN {newest.lsn}")


def _daemon(store: Store) -> Iterator[Finding]:
    where = store.config.mount_point
    if is_stale(where):
        yield Finding(
            FAIL, "mount", f"the daemon of {where} is gone", f"bring it back: cdpfs mount {where}"
        )
        return
    try:
        with Control(store) as control:
            status = control.call("status", timeout_s=STATUS_TIMEOUT_S)
    except NotMounted as error:
        yield Finding(WARN, "mount", str(error), error.hints[-1])
        return
    except (ConsoleError, OSError) as error:
        yield Finding(FAIL, "mount", str(error), f"see {store.log_dir / 'fsd.log'}")
        return
    yield Finding(OK, "mount", f"answers at {where}")
    yield _indexer(store, status)
    yield _protection(status)
    yield from alarm_findings(store, status)


def alarm_findings(store: Store, status: dict[str, Any]) -> Iterator[Finding]:
    """What the daemon says that a person should look at, and where more of it stands."""
    alarms = status.get("alarms")
    of_tape = set(tape_alarms(status.get("tape")))
    for alarm in alarms if isinstance(alarms, list) else []:
        text = str(alarm.get("message", alarm) if isinstance(alarm, dict) else alarm)
        where = f"see {store.log_dir / 'fsd.log'}"
        if text in of_tape:
            where = f"see: cdpfs tape status {path_text(store.config.directory)}"
        yield Finding(FAIL, "alarm", text, where)


def _protection(status: dict[str, object]) -> Finding:
    """Is everything logged?"""
    said = status.get("protection")
    state = said if isinstance(said, dict) else {}
    if state.get("state", "logged") == "logged":
        return Finding(OK, "protection", "every change is logged")
    since_ns = int(str(state.get("since_ns") or 0))
    since = f" since {time_text(since_ns)}" if since_ns else ""
    what = "changes are refused" if state.get("state") == "refusing" else "changes are NOT LOGGED"
    return Finding(
        UNLOGGED,
        "protection",
        f"{what}{since}: {state.get('reason')}",
        "make room for the store, or see to its disk; all goes on by itself then",
    )


def _indexer(store: Store, status: dict[str, object]) -> Finding:
    pids = status.get("pids")
    pid = pids.get("indexer") if isinstance(pids, dict) else None
    lag_s = float(str(status.get("lag_s") or 0))
    log = store.log_dir / "fsd.log"
    if not pid:
        return Finding(
            FAIL, "indexer", "it does not run; changes are kept in the log", f"see {log}"
        )
    if lag_s > LATE_INDEXER_S:
        return Finding(WARN, "indexer", f"{duration_text(lag_s)} behind", f"see {log}")
    return Finding(OK, "indexer", f"runs (pid {pid}), {duration_text(lag_s)} behind")
