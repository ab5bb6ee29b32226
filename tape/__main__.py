"""The spooler of one volume: `python -m tape STORE` (`store/consumer.py`)."""

from __future__ import annotations

import contextlib
import sys

import trio

from store.consumer import consume
from store.volume import Store
from tape.errors import TapeError
from tape.running import SpoolerProcess

LOG_NAME = "spooler.log"


def _live(store: Store, line: int) -> None:
    with contextlib.closing(SpoolerProcess(store)) as process:
        trio.run(process.run, line)


if __name__ == "__main__":
    sys.exit(consume("tape", LOG_NAME, sys.argv[1:], _live, TapeError))
