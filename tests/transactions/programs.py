"""All programs under test, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.transactions.files import AppendLog, Editor, Git, Maildir
from tests.transactions.mariadb import InnoDB
from tests.transactions.pair import Pair
from tests.transactions.postgresql import PgBench
from tests.transactions.program import Program
from tests.transactions.sqlite import Neighbours, SQLite

_MAKERS: tuple[Callable[[], Program], ...] = (
    *(partial(SQLite, mode) for mode in ("DELETE", "TRUNCATE", "PERSIST", "WAL")),
    *(partial(SQLite, mode, "shell") for mode in ("DELETE", "WAL")),
    *(partial(SQLite, mode, "several", 2) for mode in ("DELETE", "WAL")),
    partial(SQLite, "DELETE", "attached"),
    *(partial(PgBench, clients) for clients in (1, 4)),
    InnoDB,
    *(partial(Pair, variant, mmap) for variant in Pair.VARIANTS for mmap in (True, False)),
    *(partial(Pair, variant, True, True) for variant in ("data-first", "index-first")),
    *(partial(Editor, editor) for editor in ("sed", "vim")),
    Git,
    Maildir,
    AppendLog,
)

JUDGED = tuple(maker().name for maker in _MAKERS)
"""Those of which each point must be a boundary of all that they do."""

PROGRAMS: dict[str, Callable[[], Program]] = {
    maker().name: maker for maker in (*_MAKERS, Neighbours)
}
