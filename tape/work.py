"""What a run of the spooler works with, and what it lets others see of itself.

Duty: data only. One thread writes a `Tally`, any other may read it: each field is set at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from store.journal import Journal
from store.keys import KeyRing
from store.volume import Store
from tape.catalogue_file import CatalogueFile
from tape.library import Library
from tape.plan import Rest


@dataclass
class Tally:
    """How far a run is, for whoever watches it from another thread."""

    doing: str = ""
    done_bytes: int = 0
    """Written and read back by this process."""
    archives: int = 0
    pools: dict[str, Rest] = field(default_factory=dict)
    """Why each pool rests."""


@dataclass(frozen=True)
class Work:
    """What a run works with."""

    store: Store
    journal: Journal
    library: Library
    catalogue: CatalogueFile
    archive_bytes: int
    min_scratch: int = 0
    """With fewer cartridges free at the end of a run, the oldest are given up that may be."""
    ring: KeyRing | None = None
    """Seals what is written; None: it is not sealed."""
    now_ns: Callable[[], int] = time.time_ns
    sleep: Callable[[float], None] = time.sleep
    """Lets so many seconds go by."""
    cut: Callable[[str], None] = lambda step: None
    """Told the name of each step when it is done; for tests that end the process there."""
    tally: Tally = field(default_factory=Tally)
    check: Callable[[], None] = lambda: None
    """Called often; raises when the work is to end."""
