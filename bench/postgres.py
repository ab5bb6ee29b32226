"""The case of a real database server: pgbench on a PostgreSQL cluster that lives in the target.

As root everything runs as the system user `postgres`, as it would in earnest. Each cluster is made
once per target, and its server runs only while it is measured.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.plan import DESIGN, Aim, Case, Metric, Scale

SCALE_FACTOR = 10
CLIENTS = 4
_DATABASE = "postgres"
_USER = "postgres"


def _program(name: str) -> str:
    """A program of PostgreSQL; Debian keeps the server's outside PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = str(versions[0]) if versions else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} of PostgreSQL is not installed: scripts/setup --peers")
    return found


def is_installed() -> bool:
    """Whether the server and pgbench are here."""
    try:
        return bool(_program("initdb") and _program("pgbench"))
    except FileNotFoundError:
        return False


def _as_server(program: str, *arguments: str) -> str:
    """Run a program as the server's user; its output. RuntimeError with what it said."""
    command = [_program(program), *arguments]
    identity: dict[str, object] = {}
    if os.geteuid() == 0:
        entry = pwd.getpwnam(_USER)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    # Outputs go to a file: the server keeps what it inherits open, and a pipe would never end.
    with tempfile.TemporaryFile("w+") as output:
        code = subprocess.call(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(os.environ, LC_ALL="C", PGUSER=_USER, PGDATABASE=_DATABASE),
            **identity,  # type: ignore[arg-type]
        )
        output.seek(0)
        text = output.read()
    if code != 0:
        raise RuntimeError(f"{' '.join(command)}\n{text[-3000:]}")
    return text


def _socket_dir(place: Path) -> Path:
    """A short path outside the target: socket paths are limited to 107 bytes."""
    return Path(tempfile.gettempdir()) / f"cdpfs-bench-pg-{os.getpid()}-{place.parent.name}"


def _make_cluster(place: Path, scale: Scale) -> None:
    data = place / "cluster"
    data.mkdir(mode=0o700)
    sockets = _socket_dir(place)
    sockets.mkdir(mode=0o700)
    if os.geteuid() == 0:
        for path in (data, sockets):
            shutil.chown(path, _USER, _USER)
    _as_server("initdb", "-D", str(data), "-U", _USER, "-A", "trust", "--no-locale")
    with open(data / "postgresql.conf", "a", encoding="utf-8") as config:
        config.write(f"listen_addresses = ''\nunix_socket_directories = '{sockets}'\n")
        config.write("shared_buffers = 64MB\nmax_wal_size = 4GB\n")
    _start(place)
    try:
        factor = 1 if scale.short else SCALE_FACTOR
        _as_server("pgbench", "-i", "-q", "-s", str(factor), "-h", str(sockets))
    finally:
        _stop(place)


def _start(place: Path) -> None:
    data = place / "cluster"
    _as_server("pg_ctl", "-D", str(data), "-w", "-l", str(data / "server.log"), "start")


def _stop(place: Path) -> None:
    _as_server("pg_ctl", "-D", str(place / "cluster"), "-w", "-m", "fast", "stop")


def _transactions(place: Path, scale: Scale) -> dict[str, float]:
    _start(place)
    try:
        # Warms the caches and gets the full-page images after the start out of the way.
        seconds = max(int(scale.seconds * 2), 1)
        for part in (max(seconds // 3, 1), seconds):
            said = _as_server(
                "pgbench",
                *("-c", str(CLIENTS), "-j", "2", "-T", str(part)),
                *("-h", str(_socket_dir(place)), "-n"),
            )
    finally:
        _stop(place)
    found = re.search(r"tps = ([0-9.]+)", said)
    if found is None:
        raise RuntimeError(f"pgbench told no rate:\n{said}")
    return {"pgbench": float(found[1])}


def _finish(place: Path) -> None:
    if (place / "cluster" / "postmaster.pid").exists():
        _stop(place)
    shutil.rmtree(_socket_dir(place), ignore_errors=True)


CASES = (
    Case(
        "pgbench",
        (
            Metric(
                "pgbench",
                f"pgbench transactions, {CLIENTS} clients",
                "/s",
                (Aim("ext4", 0.8, DESIGN),),
            ),
        ),
        _transactions,
        _make_cluster,
        _finish,
        max_rounds=3,
        in_short=False,
    ),
)
