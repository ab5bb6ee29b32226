"""The grades of consistency. Pure; any thread; knows nothing of how a grade is found out."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Grade(IntEnum):
    """How consistent a recovery point is; a greater one promises all that a smaller one does.

    `store.index_rows.Point.grade` holds the `label`.
    """

    CRASH = 1  # an exact prefix of the write order, as if the power had failed
    SYNC = 2  # no file of the group had writes that were not yet fsynced
    TRANSACTION = 3  # and the group's learned fsync cycle was complete
    MARK = 4  # named by a person or a script

    @property
    def label(self) -> str:
        """As it is stored and shown."""
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> Self:
        """The grade with this label; ValueError if there is none."""
        try:
            return cls[label.upper()]
        except KeyError:
            known = ", ".join(grade.label for grade in cls)
            raise ValueError(f"{label!r} is no grade; there are {known}") from None
