"""PostgreSQL and MariaDB for tests: one private server each, as its own system user.

A server listens on a UNIX socket only, keeps its settings on its command line, and is ended by
its process id, whatever the test did.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mount.peers import give_to, popen, run, server_user

STOP_S = 60
"""A server that has not ended so long after being told to is killed, and the test fails."""


class Server:
    """A database server on a data directory; `run_folder` holds its socket and its log.

    `options` are added to the end of its command line.
    """

    user: str
    stop_signal: int
    crash_signal: int = signal.SIGKILL

    def __init__(self, data: Path, run_folder: Path, options: Sequence[str] = ()) -> None:
        self.data = data
        self.options = options
        self.run_folder = run_folder
        self.log = run_folder / "server.log"
        self.process: subprocess.Popen[str] | None = None
        run_folder.mkdir(exist_ok=True)
        give_to(run_folder, self.user)

    def create(self) -> None:
        """Make the data directory and an empty cluster in it."""
        self.data.mkdir(mode=0o700)
        give_to(self.data, self.user)

    def command(self) -> list[str | Path]:
        """The server's command line."""
        raise NotImplementedError

    def wait_ready(self) -> None:
        """Return when it takes connections."""
        raise NotImplementedError

    def sql(self, script: str) -> str:
        """Run a script; returns what it printed. It stops, and the test fails, at an error."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it answers (recovery included)."""
        with self.log.open("a") as log:
            command = [*self.command(), *self.options]
            self.process = popen(command, user=self.user, stdout=log, stderr=log, cwd="/")
        try:
            self.wait_ready()
        except BaseException as error:
            self.end()
            raise AssertionError(f"no answer: {error}\n{self.log.read_text()}") from error

    def stop(self) -> None:
        """Shut down in order."""
        assert self.process is not None
        self.process.send_signal(self.stop_signal)
        assert self.process.wait(STOP_S) == 0, self.log.read_text()
        self.process = None

    def crash(self) -> None:
        """End it as a power cut would, as far as the process is concerned."""
        assert self.process is not None
        self.process.send_signal(self.crash_signal)
        self.process.wait(STOP_S)
        self.process = None

    def end(self) -> None:
        """Leave no process behind."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started inside, stopped in order after."""
        self.start()
        try:
            yield
            if self.process is not None:
                self.stop()
        finally:
            self.end()

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self.process is not None
        return self.process.pid

    def copy_from(self, past: Path) -> None:
        """Take a past data directory as this server's own, with owners and modes."""
        run("cp", "-a", past, self.data)


class PostgreSQL(Server):
    """A PostgreSQL cluster with data checksums."""

    user = server_user("postgres")
    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back
    crash_signal = signal.SIGQUIT  # "immediate": its children must not outlive it

    def create(self) -> None:
        super().create()
        options = ("-k", "--wal-segsize=1", "--locale=C", "-A", "trust", "-U", "postgres")
        run("initdb", "-D", self.data, *options, user=self.user, cwd="/")

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.run_folder,
            "shared_buffers": "4MB",
            "max_wal_size": "16MB",
            "min_wal_size": "4MB",
            "wal_sync_method": "fdatasync",
            "full_page_writes": "on",
            "timezone": "UTC",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return ["postgres", "-D", self.data, *options]

    def copy_from(self, past: Path) -> None:
        super().copy_from(past)
        # The process that this names is not a server of this copy.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def wait_ready(self) -> None:
        assert self.process is not None
        while self.process.poll() is None:
            asked = popen(["pg_isready", "-q", "-t", "1", *self._where()], user=self.user, cwd="/")
            if asked.wait() == 0:
                return
        raise AssertionError(f"it ended with {self.process.returncode}")

    def _where(self) -> tuple[str, ...]:
        return ("-h", str(self.run_folder), "-U", "postgres")

    def sql(self, script: str) -> str:
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        return self.tool("psql", *options, "postgres", given=script)

    def tool(self, *argv: str, given: str = "") -> str:
        """One of its command line programs, connected to it."""
        return run(argv[0], *self._where(), *argv[1:], user=self.user, cwd="/", given=given)

    def check_data(self) -> None:
        """Every page's checksum, of a stopped server."""
        printed = run("pg_checksums", "--check", "-D", self.data, user=self.user, cwd="/")
        assert "Bad checksums:  0" in printed, printed


class MariaDB(Server):
    """A MariaDB server whose InnoDB uses O_DIRECT."""

    user = server_user("mysql")
    stop_signal = signal.SIGTERM

    def create(self) -> None:
        super().create()
        options = ("--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal")
        where = (f"--datadir={self.data}", *self._small())
        run("mariadb-install-db", *options, *where, user=self.user, cwd="/")

    @staticmethod
    def _small() -> tuple[str, ...]:
        return (
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-method=O_DIRECT",
            "--innodb-flush-log-at-trx-commit=1",
        )

    def command(self) -> list[str | Path]:
        return [
            "mariadbd",
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self._socket}",
            f"--pid-file={self.run_folder / 'pid'}",
            "--skip-networking",
            "--skip-log-bin",
            *self._small(),
        ]

    @property
    def _socket(self) -> Path:
        return self.run_folder / "sock"

    def wait_ready(self) -> None:
        assert self.process is not None
        while self.process.poll() is None:
            asked = popen(
                ["mariadb-admin", "--no-defaults", f"-S{self._socket}", "-uroot", "ping"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if asked.wait() == 0:
                return
        raise AssertionError(f"it ended with {self.process.returncode}")

    def sql(self, script: str) -> str:
        options = ("--no-defaults", f"-S{self._socket}", "-uroot", "-N", "-B")
        return run("mariadb", *options, given=script)

    def direct_files(self) -> set[str]:
        """Names of the data files that the server has open with O_DIRECT."""
        found = set()
        for entry in Path(f"/proc/{self.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):
                flags = next(line for line in entry.read_text().splitlines() if "flags" in line)
                target = os.readlink(f"/proc/{self.pid}/fd/{entry.name}")
                if int(flags.split()[1], 8) & os.O_DIRECT:
                    found.add(Path(target).name)
        return found
