"""Acting as other users: effective ids and groups, as the kernel checks them and FUSE reports them.

Only root can.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as several users")


class User(NamedTuple):
    """Ids; nobody needs to have them in /etc/passwd."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User(0, 0)
TEAM = 5200
ANN = User(5001, 5101, (TEAM,))
BEN = User(5002, 5102)


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """This process's effective ids and groups for a while; capabilities go with them."""
    if user == ROOT:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
