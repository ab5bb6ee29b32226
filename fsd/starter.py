"""How a mounting process begins: what it tells its starter, and how its errors are worded.

Duty: the pipe of `--ready-fd` with its JSON lines, for whoever waits for the mount to answer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import trio


class Starter:
    """Whoever waits for the mount to answer: a pipe with JSON lines."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, message: dict[str, Any]) -> None:
        """One line; nobody listening is fine."""
        if self._fd >= 0:
            try:
                os.write(self._fd, json.dumps(message).encode() + b"\n")
            except OSError:
                self.finish()

    async def seen(self, count: int) -> None:
        """How far the search for external changes is; others may run."""
        self.say({"progress": {"phase": "external changes", "seen": count}})
        await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """Nothing more will be said."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def begin_process(ready_fd: int) -> Starter:
    """Log to standard error, and keep the line to the starter for this process alone."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("pyfuse3").addFilter(is_news)
    if ready_fd >= 0:
        os.set_inheritable(ready_fd, False)
    return Starter(ready_fd)


def is_news(record: logging.LogRecord) -> bool:
    """Not that the kernel no longer waits for an answer (ENOENT): it withdraws requests at will."""
    return "failed with No such file or directory" not in record.getMessage()


def first_of(group: BaseException) -> BaseException:
    """The error that a group was raised for."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def describe_error(error: BaseException) -> dict[str, str]:
    """An error as the starter is told of it."""
    return {
        "kind": getattr(error, "kind", type(error).__name__),
        "message": str(error),
        "hint": str(getattr(error, "hint", "")),
    }
