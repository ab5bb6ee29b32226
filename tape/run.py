"""One run of the spooler over the pools of a volume, with the library to itself.

Duty: put together what a run needs, let each pool have its turn whatever becomes of the others,
and bring the cartridges back into their slots. Blocking; one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from store.errors import StoreError
from store.holds import drop_hold, read_holds
from tape.archive_writer import printable
from tape.bookkeeping import ends_of_sets
from tape.catalogue import AnyEvent, Attached, Moved, Recycled
from tape.choice import Chooser
from tape.errors import TapeError
from tape.inventory import take_inventory
from tape.plan import Rest, Rules
from tape.robot import Hands, Robot
from tape.spooler import Spooler, hold_name
from tape.supply import Supply
from tape.work import Work

log = logging.getLogger(__name__)

_NAP_S = 0.2
"""What is to end ends within so long, whatever is being waited for."""


def robot_for(work: Work) -> Robot:
    """The robot of a run, which keeps the books."""
    library, catalogue = work.library, work.catalogue

    def record(event: AnyEvent) -> None:
        # A label of another library, or one that nobody got to put on the books.
        if isinstance(event, Moved) and event.label_id not in catalogue.state.cartridges:
            return
        catalogue.append(event)

    def pause(seconds: float) -> None:
        while seconds > 0:
            work.check()
            work.sleep(min(seconds, _NAP_S))
            seconds -= _NAP_S

    def say(text: str) -> None:
        work.tally.doing = text

    return Robot(
        Hands(
            library.changer,
            library.drives,
            record,
            work.now_ns,
            pause,
            say,
            library.settings.cleaning_prefix,
            lambda barcode: catalogue.state.cleanings.get(barcode, 0),
        )
    )


def spool(
    work: Work,
    rules: Sequence[Rules],
    goals: Mapping[str, int | None],
    keep_ns: dict[str, int],
) -> dict[str, Rest | TapeError | StoreError | OSError]:
    """Have each pool do what is due, or reach its goal; why it rests, or what kept it from it.

    `keep_ns`: how long the pools keep a set, which goes into the books.
    """
    robot = robot_for(work)
    supply = Supply(work.library, work.catalogue, robot, work.now_ns, work.cut)
    spooler = Spooler(work, robot, supply)
    found: dict[str, Rest | TapeError | StoreError | OSError] = {}
    _say_how_long(work, keep_ns)
    # A run that was killed may have left cartridges in the drives.
    robot.put_all_away()
    take_inventory(work.library, work.catalogue, work.now_ns())
    for each in rules:
        try:
            found[each.pool] = spooler.run(each, goals.get(each.pool))
        except (TapeError, StoreError, OSError) as error:
            log.warning("the pool %s: %s", each.pool, error)
            found[each.pool] = error
    work.tally.doing = "bringing the cartridges back"
    robot.put_all_away()
    _keep_some_free(work)
    work.tally.doing = ""
    return found


def _keep_some_free(work: Work) -> None:
    """Give up what need not be kept, the oldest first, until enough cartridges are free."""
    library, state = work.library, work.catalogue.state
    while True:
        chooser = Chooser(
            state,
            library.changer.inventory(),
            library.settings.cleaning_prefix,
            work.now_ns(),
        )
        cartridge = chooser.to_recycle(work.min_scratch)
        if cartridge is None:
            return
        log.info("%s is given up: few cartridges are free", cartridge.name)
        work.catalogue.append(Recycled(time_ns=work.now_ns(), label_id=cartridge.label_id))
        work.cut("recycled")


def close_left_pools(work: Work, pools: Collection[str]) -> None:
    """End the sets of pools that the volume has no more; they hold nothing of the journal then."""
    uuid, state = work.store.config.uuid, work.catalogue.state
    ends = ends_of_sets(state, uuid, work.now_ns(), pools)
    if ends:
        work.catalogue.append(*ends)
    wanted = {hold_name(pool) for pool in pools}
    for name in read_holds(work.store.root):
        if name.startswith(hold_name("")) and name not in wanted:
            drop_hold(work.store.root, name)


def _say_how_long(work: Work, keep_ns: dict[str, int]) -> None:
    """The books say how long this volume's pools keep a set: others recycle by them too."""
    config, state = work.store.config, work.catalogue.state
    known = state.volumes.get(config.uuid)
    if (
        known is not None
        and known.attached
        and set(known.pools) == set(keep_ns)
        and known.keep_ns | keep_ns == known.keep_ns
    ):
        return
    work.catalogue.append(
        Attached(
            time_ns=work.now_ns(),
            volume_uuid=config.uuid,
            volume_name=config.name,
            directory=printable(config.directory),
            keep_ns=dict(keep_ns),
        )
    )
