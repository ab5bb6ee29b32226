"""The process of a consumer of the journal: the replicator, the spooler.

Duty: what they have in common: arguments, log, priority, exit code. It knows nothing of what they
do. The process's main thread; only `told_to_end` is async.

Standard input is the line to the daemon: any byte asks for a look at the settings; its end means
that the daemon is gone, and the consumer ends too.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from store.errors import StoreError
from store.volume import Store

log = logging.getLogger(__name__)

NICENESS = 10
MAX_LOG_BYTES = 1 << 20
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def consume(
    module: str,
    log_name: str,
    arguments: list[str],
    live: Callable[[Store, int], None],
    expected: type[Exception],
) -> int:
    """Be the process `python -m MODULE STORE`; returns its exit code.

    `live` is given the store and the descriptor of the line, -1 when there is none (run by hand),
    and works until the line ends. `expected`: its own errors, which end the process with a line in
    its log beside those of the store; others are bugs and go through.
    """
    if len(arguments) != 1:
        print(f"usage: python -m {module} STORE", file=sys.stderr)
        return EXIT_USAGE
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    os.umask(0o077)
    own_log = logging.getLogger(module)
    failed = False
    try:
        store = Store.open(Path(arguments[0]))
        log_to(store.log_dir / log_name)
        own_log.info("started, pid %d", os.getpid())
        live(store, _line())
    except* (expected, StoreError, OSError) as group:
        error = _first(group)
        own_log.error("%s; %s", error, getattr(error, "hint", "it is started again"))
        failed = True
    own_log.info("ended")
    return EXIT_FAILED if failed else EXIT_OK


def _line() -> int:
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


async def told_to_end(line_fd: int, poke: Callable[[], None]) -> None:
    """Return when a signal, or the end of the line to the daemon, says that the process is to end.

    `poke` is called for what comes on the line. `line_fd` is -1 when there is none.
    """
    async with trio.open_nursery() as nursery:
        if line_fd >= 0:
            nursery.start_soon(_listen, line_fd, poke, nursery.cancel_scope)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("told to stop by signal %d", number)
                break
        nursery.cancel_scope.cancel()


async def _listen(line_fd: int, poke: Callable[[], None], scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(line_fd)
        if not os.read(line_fd, 4096):
            break
        poke()
    log.info("the daemon has ended")
    scope.cancel()
