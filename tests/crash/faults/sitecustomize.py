"""Python runs this at the start of every process that has this folder in PYTHONPATH.

So the daemon and its indexer, started as ever, get the failing calls of `tests.crash.faulty`.
"""

import os

if os.environ.get("FAULT_ARM"):
    from tests.crash import faulty

    faulty.install()
