"""The spooler of one volume: `python -m tape STORE`.

Duty: arguments, log, priority, and the exit code. Standard input is the line to the daemon: any
byte asks for a look at the settings; its end means that the daemon is gone, and this ends too.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import stat
import sys
from pathlib import Path

import trio

from store.errors import StoreError
from store.volume import Store
from tape.errors import TapeError
from tape.running import SpoolerProcess

log = logging.getLogger("tape")

NICENESS = 10
MAX_LOG_BYTES = 1 << 20
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(arguments: list[str]) -> int:
    """The process; returns its exit code."""
    if len(arguments) != 1:
        print("usage: python -m tape STORE", file=sys.stderr)
        return EXIT_USAGE
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    os.umask(0o077)
    failed = False
    try:
        store = Store.open(Path(arguments[0]))
        log_to(store.log_dir / "spooler.log")
        with contextlib.closing(SpoolerProcess(store)) as process:
            log.info("started, pid %d", os.getpid())
            trio.run(process.run, _line())
    except* (TapeError, StoreError, OSError) as group:
        error = _first(group)
        log.error("%s; %s", error, getattr(error, "hint", "it is started again"))
        failed = True
    log.info("ended")
    return EXIT_FAILED if failed else EXIT_OK


def _line() -> int:
    """The descriptor of the line to the daemon; -1 when there is none: run by hand."""
    kind = os.fstat(0).st_mode
    return 0 if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else -1


def log_to(path: Path) -> None:
    """Everything that is logged goes to a file of bounded size, which only its owner can read."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
