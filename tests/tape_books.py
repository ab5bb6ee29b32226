"""Events of a library's catalogue, made by number: cartridges, sets and archives that fit together.

`Books` keeps a state and makes the next event that fits it, so that a test says only what matters.
"""

from __future__ import annotations

from tape.bookkeeping import apply
from tape.catalogue import (
    AnyEvent,
    ArchiveKept,
    CartridgeClosed,
    Labelled,
    Moved,
    Place,
    SetClosed,
    SetOpened,
)
from tape.catalogue_state import State, TapeSet
from tape.layout import ArchiveHead, Kind, Label

LIBRARY = "1" * 32
VOLUME = "2" * 32
DAY_NS = 86_400_000_000_000
BLOCK_BYTES = 1024


def uuid(number: int) -> str:
    """32 digits for a number."""
    return f"{number:032x}"


def label(number: int, pool: str = "onsite", volume: str = VOLUME, barcode: str = "") -> Label:
    """The label of cartridge `number`."""
    return Label(
        label_id=uuid(number),
        barcode=barcode or f"A{number:05}L8",
        pool=pool,
        library_id=LIBRARY,
        volume_uuid=volume,
        volume_name="shop",
        block_bytes=BLOCK_BYTES,
        created_ns=0,
    )


class Books:
    """A state, and the events that led to it."""

    def __init__(self) -> None:
        self.state = State()
        self.events: list[AnyEvent] = []
        self.now_ns = DAY_NS
        self._sets = 0

    def take(self, event: AnyEvent) -> AnyEvent:
        """Apply an event and keep it."""
        apply(self.state, event)
        self.events.append(event)
        return event

    def cartridge(
        self, number: int, pool: str = "onsite", place: Place = "slot", replaces: int = 0
    ) -> str:
        """Label a cartridge and bring it to the slot of its number; returns the label's id."""
        self.take(
            Labelled(
                time_ns=self.now_ns,
                label=label(number, pool),
                replaces=uuid(replaces) if replaces else "",
            )
        )
        self.move(number, place)
        return uuid(number)

    def move(self, number: int, place: Place, note: str = "") -> None:
        """Have a cartridge at a place, in the slot of its number if it is a slot."""
        at = number if place in ("slot", "door") else 0
        self.take(
            Moved(time_ns=self.now_ns, label_id=uuid(number), place=place, number=at, note=note)
        )

    def open_set(self, base_lsn: int, pool: str = "onsite", volume: str = VOLUME) -> TapeSet:
        """Begin a set; its barrier was just now."""
        self._sets += 1
        set_id = uuid(0x5E7_0000 + self._sets)
        self.take(
            SetOpened(
                time_ns=self.now_ns,
                set_id=set_id,
                pool=pool,
                volume_uuid=volume,
                base_lsn=base_lsn,
                base_time_ns=self.now_ns,
            )
        )
        return self.state.sets[set_id]

    def archive(
        self,
        tape_set: TapeSet,
        number: int,
        kind: Kind,
        first: int,
        last: int,
        *,
        last_part: bool = False,
        needs: int = 0,
        barrier: int = 0,
        blocks: int = 10,
    ) -> AnyEvent:
        """The next archive of a set, on cartridge `number`."""
        before = list(tape_set.archives)
        head = ArchiveHead(
            set_id=tape_set.set_id,
            sequence=len(before),
            kind=kind,
            volume_uuid=tape_set.volume_uuid,
            volume_name="shop",
            directory="/srv/shop",
            first_lsn=first,
            last_lsn=last,
            time_ns=tape_set.base_time_ns if kind == "full" else self.now_ns,
            created_ns=self.now_ns,
            part=len(before) if kind == "full" else 0,
        )
        return self.take(
            ArchiveKept(
                time_ns=self.now_ns,
                label_id=uuid(number),
                file=self.state.cartridges[uuid(number)].next_file,
                blocks=blocks,
                head=head,
                digest="0" * 64,
                last_part=last_part,
                needs_lsn=needs,
                barrier_lsn=barrier,
                barrier_time_ns=self.now_ns if barrier else 0,
            )
        )

    def full(self, tape_set: TapeSet, number: int) -> None:
        """The full of a set, in one archive."""
        base = tape_set.base_lsn
        self.archive(tape_set, number, "full", base, base, last_part=True)

    def log(self, tape_set: TapeSet, number: int, last: int) -> None:
        """Log up to `last`, which is a barrier, from where the set ends."""
        before = self.state.archive(tape_set.archives[-1])
        first = tape_set.base_lsn if before.kind == "full" else before.last_lsn + 1
        self.archive(tape_set, number, "log", first, last, barrier=last)

    def close_set(self, tape_set: TapeSet) -> None:
        """Nothing more comes to it."""
        self.take(SetClosed(time_ns=self.now_ns, set_id=tape_set.set_id, whole=tape_set.whole))

    def close_cartridge(self, number: int) -> None:
        """Nothing more is written to it."""
        self.take(CartridgeClosed(time_ns=self.now_ns, label_id=uuid(number), reason="full"))

    def days(self, count: float) -> None:
        """Time passes."""
        self.now_ns += int(count * DAY_NS)
