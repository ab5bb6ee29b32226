"""A program with a place of its own, for as long as it is at work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from tests.transactions.program import Program
from tests.transactions.recording import MAX_NOTE


class Setting(Protocol):
    """A protected tree with a program in it, and where its history is carried."""

    def begin(self) -> None:
        """The program's files are there, and have been carried."""
        ...

    def end(self) -> None:
        """Leave neither a process nor a mount behind."""
        ...

    def logs(self) -> Iterator[tuple[str, str]]:
        """What all processes said."""
        ...


S = TypeVar("S", bound=Setting)


@contextmanager
def at_work(program: Program, make: Callable[[Program, Path], S]) -> Iterator[S]:
    """The setting that `make` makes in a new folder, begun; nothing is left of it afterwards."""
    base = Path(tempfile.mkdtemp(prefix="cdpfs-", dir="/var/tmp"))
    base.chmod(0o755)
    made = make(program, base)
    program.outside = base / "outside"
    program.outside.mkdir()
    try:
        made.begin()
        yield made
    except BaseException as error:
        for name, text in made.logs():
            error.add_note(f"{name}:\n{text[-MAX_NOTE:]}")
        raise
    finally:
        program.stop()
        made.end()
        shutil.rmtree(base)
