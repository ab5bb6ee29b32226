"""PostgreSQL under pgbench: TPC-B's sums agree, and history says whose transactions are in."""

from __future__ import annotations

from pathlib import Path

from tests.mount.servers import PostgreSQL
from tests.transactions.program import Broken, Counts, Program

SCRIPT = """
\\set aid random(1, 5000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler)
  VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP, CAST(:client_id AS text));
END;
"""
"""pgbench's own, but for the client's number, and for fewer accounts: copies are made often."""

SHRINK = "delete from pgbench_accounts where aid > 5000; vacuum full; checkpoint"

SUMS = """
select (select coalesce(sum(delta), 0) from pgbench_history),
  (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
  (select sum(bbalance) from pgbench_branches);
"""
COUNTS = "select trim(filler), count(*) from pgbench_history group by 1"


class PgBench(Program):
    """One cluster, `clients` connections."""

    has_strict_check = False

    def __init__(self, clients: int) -> None:
        self.name = f"postgresql-{clients}"
        self.clients = clients
        self._server: PostgreSQL | None = None

    def prepare(self, place: Path) -> None:
        self._server = server = PostgreSQL(place / "pg", self.outside / "live")
        server.create()
        server.start()
        server.tool("pgbench", "-i", "-q", "postgres")
        server.sql(SHRINK)
        server.sql("create extension amcheck")

    def run(self, place: Path, record: Path, count: int, seed: int) -> None:
        assert self._server is not None
        script, log = self.outside / "script.sql", self.outside / "live" / "log"
        script.write_text(SCRIPT)
        how = ("-n", f"-c{self.clients}", "-j1", f"-t{count // self.clients}", f"-f{script}")
        written = ("-l", f"--log-prefix={log}", f"--random-seed={seed}")
        self._server.tool("pgbench", *how, *written, "postgres")
        lines: list[tuple[int, int, int, int]] = []
        for path in log.parent.glob("log.*"):
            for line in path.read_text().splitlines():
                client, number, took_us, _, seconds, us = map(int, line.split()[:6])
                ack_us = seconds * 10**6 + us
                lines.append((client, number, (ack_us - took_us) * 1000, ack_us * 1000))
        assert len(lines) == count // self.clients * self.clients
        record.write_text("".join(" ".join(map(str, line)) + "\n" for line in sorted(lines)))

    def stop(self) -> None:
        if self._server is not None:
            self._server.end()

    def check(self, copy: Path) -> Counts:
        server = PostgreSQL(copy / "pg", copy / "run", ("--fsync=off",))
        (server.data / "postmaster.pid").unlink(missing_ok=True)
        try:
            with server.running():
                sums = set(server.sql(SUMS).strip().split("|"))
                counts = dict(line.split("|") for line in server.sql(COUNTS).splitlines())
                complaints = server.tool("pg_amcheck", "-d", "postgres", "--heapallindexed")
                server.crash()  # it has answered: an orderly end would only take time
        except AssertionError as error:
            raise Broken(f"the server does not work: {error}") from error
        if len(sums) != 1 or complaints:
            raise Broken(f"sums {sums}, pg_amcheck: {complaints}")
        return tuple(int(counts.get(str(client), 0)) for client in range(self.clients))
