"""Running a user's command (a hook, a check) with a time limit, and ending it with its children.

Duty: a shell command in a process group of its own. Blocking; one thread. It does not know what
the command is for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

GRACE_S = 5.0
"""After being told to end (SIGTERM) a group has so long before it is killed."""

MAX_OUTPUT_BYTES = 256 << 10


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code; 128 + N if signal N ended it."""
    timed_out: bool
    seconds: float
    output: str = ""
    """What it printed, both streams, MAX_OUTPUT_BYTES of it; only if asked for."""

    @property
    def ok(self) -> bool:
        """It succeeded, in time."""
        return self.code == 0 and not self.timed_out

    @property
    def text(self) -> str:
        """How it failed, for people."""
        if self.timed_out:
            return f"ran out of time after {self.seconds:.1f} s and was ended with its children"
        return f"failed with exit code {self.code}"


def run_command(
    command: str,
    *,
    timeout_s: float | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
    keep_output: bool = False,
) -> Ended:
    """Run a shell command; its standard input is empty.

    Over its time, and when we are interrupted, its whole process group is ended. What it leaves
    running when it ends by itself stays: a hook may hold a database session open.
    """
    # A file, not a pipe: something left running would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        process = subprocess.Popen(
            command,
            shell=True,
            env={**os.environ, **(environment or {})},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output if keep_output else None,
            stderr=output if keep_output else None,
            process_group=0,
        )
        timed_out = False
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            code = _end_group(process)
        except BaseException:
            _end_group(process)
            raise
        seconds = time.monotonic() - begun
        text = _read(output) if keep_output else ""
    return Ended(128 - code if code < 0 else code, timed_out, seconds, text)


def _end_group(process: subprocess.Popen[bytes]) -> int:
    """End the process and everything in its group; returns the exit code."""
    # The group exists as long as its leader was not waited for.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        code = process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        code = None
    # Children that ignored it are ended too, though their shell went.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() if code is None else code


def _read(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read(MAX_OUTPUT_BYTES).decode("utf-8", "backslashreplace")
