"""The `cdpfs` command line as tests run it: a process, with stores that no other run sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from console.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[1]
RING = ("--ring-files", "3", "--ring-file-bytes", "8M")


def run_cdpfs(
    *arguments: str,
    code: ExitCode = ExitCode.OK,
    cwd: Path | str = "/",
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `cdpfs`; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "console", *arguments],
        env=environment or dict(os.environ, PYTHONPATH=str(ROOT)),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    if code:
        assert b"\n  next: " in done.stderr, done.stderr.decode()
    return done


class ProtectedTree:
    """A directory to be protected, and `cdpfs` to be run on it with a registry of its own."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.tree = top / "tree"
        self.environment = dict(os.environ, PYTHONPATH=str(ROOT), CDPFS_HOME=str(top / "home"))
        self.tree.mkdir()

    def run(
        self, *arguments: str, code: ExitCode = ExitCode.OK, cwd: Path | str = "/"
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `cdpfs`; it must end with `code`."""
        return run_cdpfs(*arguments, code=code, cwd=cwd, environment=self.environment)

    def json(self, *arguments: str) -> Any:
        """Run `cdpfs ... --json` and read what it prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def now(self) -> str:
        """A moment that includes everything up to here and nothing after."""
        return f"@lsn:{self.json('status', str(self.tree))['lsn']}"

    def path(self, name: str) -> str:
        return str(self.tree / name)

    @property
    def is_mounted(self) -> bool:
        return f" {self.tree} " in Path("/proc/self/mountinfo").read_text()

    def end(self) -> None:
        """Leave no mount behind, whatever the test did."""
        while self.is_mounted:
            subprocess.run(["fusermount3", "-uz", str(self.tree)], check=True)
