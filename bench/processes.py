"""What a process has used so far, from /proc. Blocking, quick; any thread."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and all its threads."""
    # The second field, the name, may hold spaces and parentheses; what follows it does not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICKS_S


def resident_bytes(pid: int) -> int:
    """Memory that the process has in RAM now."""
    return _status_kib(pid, "VmRSS") << 10


def peak_resident_bytes(pid: int) -> int:
    """The most memory that it ever had in RAM."""
    return _status_kib(pid, "VmHWM") << 10


def anonymous_bytes(pid: int) -> int:
    """Memory of its own, without the pages of mapped files that the kernel can drop at will."""
    return _status_kib(pid, "RssAnon") << 10


def _status_kib(pid: int, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/status has no {key}")
    return int(found[1])
