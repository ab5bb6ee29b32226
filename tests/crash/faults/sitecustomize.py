"""Python runs this at the start of every process that has this folder in PYTHONPATH.

So the daemon and its indexer, started as ever, get the failing calls of `tests.crash.faulty`.
"""

import os

if os.environ.get("FAULT_ARM"):
    from tests.crash import faulty

    faulty.install()

if os.environ.get("CLOCK_OFF"):
    import time

    _real_ns = time.time_ns

    def _shown_ns() -> int:
        """What the clock of a machine says that is wrong by what the file holds, in seconds."""
        with open(os.environ["CLOCK_OFF"]) as file:
            return _real_ns() + int(file.read()) * 10**9

    time.time_ns = _shown_ns
