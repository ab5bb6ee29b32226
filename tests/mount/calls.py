"""What tests of single calls share: descriptors for a while, and expected errors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(path: Path | bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    """A descriptor for a while."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


Call = Callable[[], object]


def refused(number: int) -> pytest.RaisesExc[OSError]:
    """The OSError that is expected."""
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == number)
