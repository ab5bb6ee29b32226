"""InnoDB: money moves between two tables, a counter and a history say how often."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mount.peers import popen
from tests.mount.servers import MariaDB
from tests.transactions.program import Broken, Counts, Program, Transact

ACCOUNTS, MONEY = 200, 100

FILL = f"""
create database bank; use bank;
create table checking (id int primary key, money int, memo varchar(900)) engine=innodb;
create table saving like checking;
insert into checking select seq, {MONEY}, '' from seq_1_to_{ACCOUNTS};
insert into saving select * from checking;
create table counter (number int) engine=innodb; insert into counter values (0);
create table history (number int primary key, memo varchar(200)) engine=innodb;
"""

TRANSACTION = """
start transaction;
update checking set money = money - {amount}, memo = '{memo}' where id = {one};
update saving set money = money + {amount} where id = {other};
insert into history values ({number}, '{memo:.150}');
update counter set number = {number};
commit;
select {number};
"""

ANSWERS = """
select sum(money), count(*) from (select * from checking union all select * from saving) as a;
select number from counter; select count(*), ifnull(max(number), 0) from history;
check table checking, saving, counter, history extended;
"""


class InnoDB(Program):
    """One server, one client."""

    name = "mariadb"

    has_strict_check = False

    def __init__(self) -> None:
        self._server: MariaDB | None = None

    def prepare(self, place: Path) -> None:
        self._server = server = MariaDB(place / "maria", self.outside / "live")
        server.create()
        server.start()
        server.sql(FILL)

    def stop(self) -> None:
        if self._server is not None:
            self._server.end()

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        socket = self.outside / "live" / "sock"
        options = ("--no-defaults", f"-S{socket}", "-uroot", "-N", "-B", "-n", "bank")
        command = ["mariadb", *options]
        with popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
            assert shell.stdin is not None and shell.stdout is not None

            def do(number: int) -> None:
                assert shell.stdin is not None and shell.stdout is not None
                memo = chance.randbytes(chance.randrange(400)).hex()
                one, other = chance.randrange(1, ACCOUNTS + 1), chance.randrange(1, ACCOUNTS + 1)
                amount = chance.randrange(50)
                shell.stdin.write(
                    TRANSACTION.format(
                        number=number, memo=memo, one=one, other=other, amount=amount
                    )
                )
                shell.stdin.flush()
                assert shell.stdout.readline() == f"{number}\n"

            yield do
            shell.stdin.close()
            assert shell.wait() == 0

    def check(self, copy: Path) -> Counts:
        options = ("--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0")
        server = MariaDB(copy / "maria", copy / "run", options)
        try:
            with server.running():
                lines = server.sql("use bank;" + ANSWERS).splitlines()
                server.crash()
        except AssertionError as error:
            raise Broken(f"the server does not work: {error}") from error
        sums, number, history, *tables = lines
        if sums != f"{2 * ACCOUNTS * MONEY}\t{2 * ACCOUNTS}" or history != f"{number}\t{number}":
            raise Broken(f"sums {sums}, counter {number}, history {history}")
        if wrong := [line for line in tables if not line.endswith("\tOK")]:
            raise Broken(f"check table: {wrong}")
        return (int(number),)
