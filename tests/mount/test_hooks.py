"""`cdpfs mark` around any commands, and the hooks in `packaging/hooks` with real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree
from tests.mount.peers import POLL_S, popen
from tests.mount.servers import MariaDB, PostgreSQL, Server
from tests.volume import SOURCE

HOOKS = SOURCE / "packaging" / "hooks"


@pytest.fixture
def volume() -> Iterator[ProtectedTree]:
    """An empty protected directory below a path that every user may enter."""
    parent = os.environ.get("CDPFS_TEST_DIR", "/var/tmp")
    top = Path(tempfile.mkdtemp(prefix="cdpfs-", dir=parent))
    top.chmod(0o755)
    made = ProtectedTree(top)
    try:
        made.run("protect", str(made.tree), *RING)
        yield made
        if made.is_mounted:
            made.run("umount", str(made.tree))
    finally:
        made.end()
        shutil.rmtree(top)


def mark(
    volume: ProtectedTree,
    *options: str,
    code: ExitCode = ExitCode.OK,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """`cdpfs mark m DIR` with these options."""
    volume.environment.update(environment or {})
    return volume.run("mark", "m", str(volume.tree), *options, code=code)


def marks(volume: ProtectedTree) -> list[Any]:
    return list(volume.json("points", str(volume.tree), "--grade", "mark"))


# --- any command ---------------------------------------------------------------------------------


def test_hooks_run_around_the_mark_and_know_it(volume: ProtectedTree) -> None:
    seen = volume.top / "seen"
    say = f'echo "$CDPFS_PHASE $CDPFS_MARK $CDPFS_DIR $CDPFS_LSN" >> {seen}'
    result = json.loads(mark(volume, "--pre", say, "--post", say, "--json").stdout)
    lsn = result["lsn"]
    assert seen.read_text() == f"pre m {volume.tree} \npost m {volume.tree} {lsn}\n"
    assert result["hooks"]["pre"]["exit_code"] == result["hooks"]["post"]["exit_code"] == 0


def test_a_failed_pre_hook_sets_no_mark_and_post_runs_all_the_same(volume: ProtectedTree) -> None:
    seen = volume.top / "seen"
    mark(volume, "--pre", "exit 3", "--post", f"touch {seen}", code=ExitCode.HOOK)
    assert seen.exists()
    assert marks(volume) == []


def test_a_failed_post_hook_is_told_and_leaves_the_mark(volume: ProtectedTree) -> None:
    done = mark(volume, "--post", "exit 3", code=ExitCode.HOOK)
    assert b"the mark is set" in done.stderr
    assert len(marks(volume)) == 1


def test_a_hook_over_its_time_ends_with_its_children(volume: ProtectedTree) -> None:
    seen, pids = volume.top / "seen", volume.top / "pids"
    stubborn = f"trap '' TERM; echo $$ >> {pids}; sleep 1000"
    pre = f'sh -c "{stubborn.replace("$", chr(92) + "$")}" & echo $$ >> {pids}; sleep 1000'
    done = mark(
        volume, "--pre", pre, "--post", f"touch {seen}", "--timeout", "1", code=ExitCode.HOOK
    )
    assert b"ran out of time" in done.stderr
    assert seen.exists()
    assert marks(volume) == []
    for pid in pids.read_text().split():
        assert not _runs(int(pid))


def test_a_mark_that_is_ended_from_outside_still_runs_its_post_hook(volume: ProtectedTree) -> None:
    seen, begun = volume.top / "seen", volume.top / "begun"
    options = ("--pre", f"touch {begun}; sleep 1000", "--post", f"touch {seen}")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "console", "mark", "m", str(volume.tree), *options],
        env=volume.environment,
        stdin=subprocess.DEVNULL,
    )
    while not begun.exists():
        time.sleep(POLL_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert seen.exists()
    assert marks(volume) == []


def test_the_freeze_hook_stops_a_program_and_its_children_over_the_mark(
    volume: ProtectedTree,
) -> None:
    count = volume.tree / "count"
    loop = f"n=0; while :; do n=$((n + 1)); echo $n >> {count}; sleep 0.01; done"
    program = popen(["sh", "-c", f"({loop}) & wait"])
    try:
        while not count.exists():
            time.sleep(POLL_S)
        hook, pid = HOOKS / "freeze", program.pid
        still = f"cp {count} {volume.top}/a; sleep 1; cp {count} {volume.top}/b"
        mark(volume, "--pre", f"{hook} pre {pid}; {still}", "--post", f"{hook} post {pid}")
        assert (volume.top / "a").read_bytes() == (volume.top / "b").read_bytes()
        past = volume.tree / ".snapshots" / "@mark:m" / "count"
        assert past.read_bytes() == (volume.top / "a").read_bytes()
        while count.read_bytes() == (volume.top / "b").read_bytes():
            time.sleep(POLL_S)
    finally:
        for child in Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        program.kill()
        program.wait()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- servers -------------------------------------------------------------------------------------


def _server_in(volume: ProtectedTree, kind: type[Server]) -> Server:
    server = kind(volume.tree / "data", volume.top / "run")
    server.create()
    return server


def _copy_of_mark(volume: ProtectedTree, kind: type[Server]) -> Server:
    copy = kind(volume.top / "copy", volume.top / "run2")
    copy.copy_from(volume.tree / ".snapshots" / "@mark:m" / "data")
    return copy


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["checkpoint", "backup"])
def test_postgresql_at_a_mark_holds_what_was_committed(volume: ProtectedTree, how: str) -> None:
    server = _server_in(volume, PostgreSQL)
    labels = volume.top / "labels"
    labels.mkdir()
    with server.running():
        server.sql("create table t (n int); insert into t select generate_series(1, 5000)")
        connection = {"PGHOST": str(server.run_folder), "PGUSER": "postgres"}
        state = {"CDPFS_HOOK_STATE": str(volume.top / "state"), "LABEL_DIR": str(labels)}
        hook = HOOKS / "postgresql"
        options: tuple[str, ...] = ("--pre", f"{hook} checkpoint")
        if how == "backup":
            options = ("--pre", f"{hook} pre", "--post", f"{hook} post")
        mark(volume, *options, environment=connection | state)
        server.sql("insert into t select generate_series(1, 5000)")
    copy = _copy_of_mark(volume, PostgreSQL)
    if how == "backup":
        assert "START WAL LOCATION" in (labels / "m.backup_label").read_text()
        assert not list((volume.top / "state").iterdir())
    with copy.running():
        assert copy.sql("select count(*), max(n) from t").split() == ["5000|5000"]


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["lock", "stage"])
def test_mariadb_is_at_rest_over_the_mark(volume: ProtectedTree, method: str) -> None:
    server = _server_in(volume, MariaDB)
    socket = server.run_folder / "sock"
    client = f"mariadb --no-defaults -S{socket} -uroot"
    with server.running():
        server.sql("create database d; create table d.t (n int) engine=innodb;")
        server.sql("use d; insert into t select seq from seq_1_to_5000")
        settings = {
            "CDPFS_HOOK_STATE": str(volume.top / "state"),
            "CLIENT": client,
            "METHOD": method,
        }
        hook = HOOKS / "mariadb"
        # While the session is held, nobody can commit; afterwards everybody can.
        attempt = f"timeout 2 {client} -e 'insert into d.t values (-1)'"
        pre = f"{hook} pre && if {attempt}; then exit 9; fi"
        mark(volume, "--pre", pre, "--post", f"{hook} post", environment=settings)
        assert not list((volume.top / "state").iterdir())
        server.sql("insert into d.t values (-2)")
    copy = _copy_of_mark(volume, MariaDB)
    with copy.running():
        assert copy.sql("select count(*), min(n) from d.t").split() == ["5000", "1"]


@pytest.mark.nightly
def test_a_session_that_nobody_ends_ends_by_itself(volume: ProtectedTree) -> None:
    server = _server_in(volume, MariaDB)
    client = f"mariadb --no-defaults -S{server.run_folder / 'sock'} -uroot"
    settings = {"CDPFS_HOOK_STATE": str(volume.top / "state"), "CLIENT": client, "HOLD_S": "1"}
    with server.running():
        server.sql("create database d; create table d.t (n int);")
        mark(volume, "--pre", f"{HOOKS / 'mariadb'} pre", environment=settings)
        # This waits for the lock, which goes with the session.
        server.sql("insert into d.t values (1)")
        mark(volume, "--post", f"{HOOKS / 'mariadb'} post", code=ExitCode.HOOK)
