"""The replicator of one volume: `python -m replicator STORE` (`store/consumer.py`)."""

from __future__ import annotations

import contextlib
import logging
import sys

import trio

from replicator.errors import ReplicationError
from replicator.running import Replicator
from store.consumer import consume
from store.volume import Store

LOG_NAME = "replicator.log"


def be_quiet_of_requests() -> None:
    """Of each request its libraries would log a line, of each connection many."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _live(store: Store, line: int) -> None:
    be_quiet_of_requests()
    with contextlib.closing(Replicator(store)) as replicator:
        trio.run(replicator.run, line)


if __name__ == "__main__":
    sys.exit(consume("replicator", LOG_NAME, sys.argv[1:], _live, ReplicationError))
