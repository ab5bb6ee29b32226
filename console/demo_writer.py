"""The application of the demo: a shop that takes orders into a SQLite database until told to stop.

Run as `python -m console.demo_writer DATABASE`. Prints one line per committed order, `ID TIME_NS`,
after SQLite has said that it is committed; ends when its stdin is closed.
"""

from __future__ import annotations

import select
import sqlite3
import sys
import time

PAUSE_S = 0.01
NOTE = "a plain order " * 20


def create(database: str) -> None:
    """Make the database with its one table."""
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT)"
        )
    connection.close()


def amount_of(order: int) -> int:
    """What order number `order` costs, so that anyone can check a row."""
    return order * 7919 % 10_007


def take_orders(database: str) -> None:
    """Commit orders one by one, reporting each, until stdin ends."""
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    (order,) = connection.execute("SELECT coalesce(max(id), 0) FROM orders").fetchone()
    while not select.select((sys.stdin,), (), (), PAUSE_S)[0]:
        order += 1
        connection.execute("INSERT INTO orders VALUES (?, ?, ?)", (order, amount_of(order), NOTE))
        print(order, time.time_ns(), flush=True)
    connection.close()


if __name__ == "__main__":
    take_orders(sys.argv[1])
