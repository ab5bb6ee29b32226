"""Real programs for tests: finding, running and freezing them.

A missing program is installed by `scripts/setup --peers`; when that is impossible the test fails
and says so. Nothing here is skipped in silence: these programs are the oracles.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.volume import SOURCE

_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_POSTGRESQL = Path("/usr/lib/postgresql")
POLL_S = 0.01


def find_program(name: str) -> str:
    """The path of a program, installed first if need be; the test fails when that can't be."""
    found = _which(name)
    if found is None:
        _install_peers()
        found = _which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: run scripts/setup --dev --peers", pytrace=False)
    return found


def _which(name: str) -> str | None:
    versions = sorted(_POSTGRESQL.glob("*/bin"), key=lambda place: float(place.parent.name))
    places = [str(place) for place in reversed(versions)]
    return shutil.which(name, path=os.pathsep.join((os.environ["PATH"], *_PLACES, *places)))


@functools.cache
def _install_peers() -> None:
    done = subprocess.run(
        [SOURCE / "scripts" / "setup", "--peers"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"scripts/setup --peers failed:\n{done.stdout}{done.stderr}", pytrace=False)


def fetched(*arguments: str) -> None:
    """Run `pip` with these arguments; the test fails with its words when it can't fetch."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"
        pytest.fail(f"PyPI is needed for this test and pip could not reach it: {words}", False)


def cache_folder() -> Path:
    """Where fetched sources stay between runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "cdpfs-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def server_user(name: str) -> str:
    """The system user of a server; one's own when one can't be anybody else."""
    return name if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def give_to(place: Path, user: str) -> None:
    """Make `user` the owner of one directory."""
    known = pwd.getpwnam(user)
    if os.geteuid() == 0:
        os.chown(place, known.pw_uid, known.pw_gid)


def environment(**more: str) -> dict[str, str]:
    """What programs get to see of the environment: little, so that runs are alike."""
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent"} | more


def popen(argv: Sequence[str | Path], *, user: str | None = None, **how: object) -> _Process:
    """Start a program, as another user if so asked, with text pipes."""
    options: dict[str, object] = {"env": environment(), "stdin": subprocess.DEVNULL, **how}
    if user is not None and os.geteuid() == 0:
        known = pwd.getpwnam(user)
        options |= {"user": known.pw_uid, "group": known.pw_gid, "extra_groups": []}
    program = find_program(str(argv[0]))
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [program, *map(str, argv[1:])],
        text=True,
        errors="surrogateescape",
        **options,
    )


_Process = subprocess.Popen[str]


def run(*argv: str | Path, user: str | None = None, given: str = "", **how: object) -> str:
    """Run a program to its end; returns what it printed. It must succeed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with popen(argv, user=user, **(pipes | how)) as process:
        printed, complaints = process.communicate(given)
    words = " ".join(map(str, argv))
    assert process.returncode == 0, f"{words}: {process.returncode}\n{printed}\n{complaints}"
    return printed or ""


# --- freezing ------------------------------------------------------------------------------------


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process and all its descendants, so that nothing changes meanwhile."""
    stopped = _stop_family(pid)
    try:
        yield
    finally:
        for member in stopped:
            _signal(member, signal.SIGCONT)


def _stop_family(pid: int) -> set[int]:
    """Stop until no member runs and none was born meanwhile."""
    stopped: set[int] = set()
    while True:
        family = _family(pid)
        for member in family - stopped:
            _signal(member, signal.SIGSTOP)
        if family <= stopped and all(_state(member) in "TZX" for member in family):
            return stopped
        stopped |= family
        time.sleep(POLL_S)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _family(pid: int) -> set[int]:
    parents = {int(p.name): _parent(int(p.name)) for p in Path("/proc").glob("[0-9]*")}
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _stat_fields(pid: int) -> list[str]:
    """State, parent and so on; nothing for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _state(pid: int) -> str:
    """One letter as in ps(1); X when it is gone."""
    return (_stat_fields(pid) or ["X"])[0]


def _parent(pid: int) -> int:
    return int((_stat_fields(pid) or ["X", "0"])[1])
