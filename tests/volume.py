"""A real volume for tests: its tree, its store, its daemon and its mount.

Everything goes through the same processes that a user has: `python -m fsd` mounts, the indexer
follows, and the test sees the tree through the kernel. `close` leaves neither a mount nor a
process behind, whatever state the volume is in.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from store.volume import Store, new_config

SOURCE = Path(__file__).resolve().parents[1]


class Volume:
    """A protected directory below `base`. `tree` is where applications work."""

    @classmethod
    def of(cls, store: Store, log: Path) -> Volume:
        """The volume of a store that is there already, mounted in place."""
        found = cls.__new__(cls)
        found.tree = found.backing = Path(store.config.directory)
        found.store, found.log, found.process = store, log, None
        return found

    def __init__(self, base: Path, *, at: bool = False, **settings: Any) -> None:
        self.tree = base / "tree"
        self.tree.mkdir(parents=True, exist_ok=True)
        self.backing = self.tree
        if at:
            self.tree = base / "mount"
            self.tree.mkdir(exist_ok=True)
            settings["mount_at"] = str(self.tree)
        values = {"ring_files": 4, "ring_file_bytes": 8 << 20, **settings}
        config = new_config(str(self.backing), time.time_ns(), **values)
        self.store = Store.create(base / "store", config)
        self.log = base / "fsd.log"
        self.process: subprocess.Popen[bytes] | None = None

    def mount(self) -> dict[str, Any]:
        """Start the daemon; returns what it says. AssertionError with the log if it can't."""
        answer = self.try_mount()
        assert answer.get("ok"), (answer, self.log.read_text())
        return answer

    def try_mount(self) -> dict[str, Any]:
        """Start the daemon; returns what it says, or {} when it ends without a word."""
        reader, writer = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fsd", str(self.store.root), "--ready-fd", str(writer)],
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=SOURCE,
                start_new_session=True,
            )
        os.close(writer)
        with open(reader, "rb") as answers:
            for line in answers:
                answer: dict[str, Any] = json.loads(line)
                if "progress" not in answer:
                    return answer
        return {}

    def call(self, name: str, /, **args: Any) -> Any:
        """A call on the control socket; AssertionError when it fails."""
        answer = self.try_call(name, **args)
        assert answer["ok"], answer
        return answer["result"]

    def try_call(self, name: str, /, **args: Any) -> dict[str, Any]:
        """A call on the control socket; the whole answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            folder = os.open(self.store.root, os.O_PATH)
            try:
                connection.connect(f"/proc/self/fd/{folder}/control.sock")
            finally:
                os.close(folder)
            connection.sendall(json.dumps({"v": 1, "call": name, "args": args}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer: dict[str, Any] = json.loads(line)
                    if "progress" not in answer:
                        return answer
        raise AssertionError("the daemon hung up")

    def sync(self) -> int:
        """Everything so far is indexed; returns the newest LSN."""
        while True:
            answer = self.call("sync")
            if answer["complete"]:
                return int(answer["lsn"])

    def past(self, lsn: int) -> Path:
        """The tree as of an LSN."""
        return self.tree / ".snapshots" / f"@lsn:{lsn}"

    def indexer_pid(self) -> int:
        """The indexer's process."""
        return int(self.call("status")["pids"]["indexer"])

    def kill(self) -> None:
        """End the daemon as a crash would, and clear the dead mount."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.clear()

    def unmount(self) -> None:
        """Unmount in order, and wait until the daemon has ended."""
        subprocess.run(["fusermount3", "-u", str(self.tree)], check=True)
        assert self.process is not None
        code = self.process.wait()
        self.process = None
        assert code == 0, self.log.read_text()

    def clear(self) -> None:
        """Take every mount over the tree away."""
        while is_mounted(self.tree):
            subprocess.run(["fusermount3", "-uz", str(self.tree)], check=False)

    def close(self) -> None:
        """Leave nothing behind."""
        self.clear()
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def log_text(self) -> str:
        """What the daemon and the indexer said so far."""
        return self.log.read_text() if self.log.exists() else ""

    def assert_foreseen(self) -> None:
        """Nothing came about that nobody foresaw."""
        assert " ERROR " not in self.log_text(), self.log_text()
        assert "Traceback" not in self.log_text(), self.log_text()


def is_mounted(place: Path) -> bool:
    """Whether a FUSE file system is mounted there."""
    wanted = str(place).encode()
    with open("/proc/self/mounts", "rb") as lines:
        return any(
            line.split()[1] == wanted and line.split()[2].startswith(b"fuse") for line in lines
        )
