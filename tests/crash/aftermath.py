"""What must hold of a volume whose machine lost its power.

The volume comes up; the live tree is the journal's newest state; the applications find all that
they were told is safe, and a prefix of the rest; a second recovery finds nothing to do; `verify` is
clean; and the log complains about nothing.
"""

from __future__ import annotations

from fsd.adopt import HIDDEN
from store.journal import Journal
from store.types import Lsn
from store.verify import verify
from tests.crash import bank, client, copies
from tests.crash.campaign import Failed
from tests.crash.copies import Copy, differences
from tests.crash.victim import Victim
from timetravel.view import View

SIGNS = (" ERROR ", " WARNING ", "Traceback", "external changes found")
MOST_LINES = 30


class Aftermath:
    """The check of one cut: `recover`, mount the file systems anew, `recover_again`.

    `ledgers` has what `bank` and `client` had been told before the cut. Everything raises Failed.
    """

    def __init__(self, volume: Victim, ledgers: dict[str, bytes]) -> None:
        self._volume = volume
        self._ledgers = ledgers
        self._first: Copy = {}

    def kill_while_it_starts(self, patience_s: float) -> None:
        """Kill the daemon in the middle of its recovery, or shortly after."""
        volume = self._volume
        volume.start()
        answer = volume.wait_mounted(patience_s)
        if answer is not None and not answer.get("ok"):
            raise Failed(f"the daemon does not come up: {answer}\n{self._tail()}")
        self._kill()

    def _kill(self) -> None:
        self._volume.kill_indexer()
        self._volume.kill_daemon()
        self._volume.clear()

    def recover(self) -> None:
        """Mount, check, and kill the daemon again."""
        volume = self._volume
        self._mount()
        live = copies.of_tree(volume.tree)
        lsn = Lsn(volume.sync())
        with Journal(volume.store) as journal:
            past = copies.of_view(View(journal, lsn, volume.demand))
        wrong = [f"newest view, {line}" for line in differences(past, live)]
        ledger = volume.log.with_name("bank.ledger")
        ledger.write_bytes(self._ledgers["bank"].rpartition(b"\n")[0])
        wrong += bank.check(volume.tree / "bank" / "bank.db", ledger)
        wrong += client.check(volume.tree / "client", self._ledgers["client"])
        self._report(wrong)
        # The database's own recovery may have changed something.
        self._first = copies.of_tree(volume.tree)
        self._kill()

    def recover_again(self) -> None:
        """After the file systems were mounted anew: nothing is left to mend, and all is sound."""
        volume = self._volume
        self._mount()
        line = volume.log_text().rpartition("recovery from LSN")[2].partition("\n")[0]
        wrong = []
        if not line.endswith(": 0 repairs"):
            wrong.append(f"the second recovery still mended something: {line}")
        volume.unmount()
        found = copies.of_tree(volume.backing)
        kept = {path: entry for path, entry in found.items() if not path.startswith(HIDDEN)}
        wrong += [f"second recovery, {line}" for line in differences(kept, self._first)]
        wrong += [f"verify: {finding}" for finding in verify(volume.store).findings]
        self._report(wrong)

    def _mount(self) -> None:
        answer = self._volume.try_mount()
        if not answer.get("ok"):
            raise Failed(f"the daemon does not come up: {answer}\n{self._tail()}")

    def _report(self, wrong: list[str]) -> None:
        lines = self._volume.log_text().splitlines()
        wrong += [f"log: {line}" for line in lines if any(sign in line for sign in SIGNS)]
        if wrong:
            raise Failed("\n".join([*wrong[:MOST_LINES], self._tail()]))

    def _tail(self) -> str:
        lines = self._volume.log_text().splitlines()[-2 * MOST_LINES :]
        return "\n".join(f"    {line}" for line in lines)
