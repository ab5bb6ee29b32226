"""What the figures were measured on: processors, kernel, disk, versions. Blocking; any thread."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.targets import ROOT


def describe(work: Path, command: str, target_names: Sequence[str]) -> list[str]:
    """Lines about the machine, for people."""
    processors = (
        f"{os.cpu_count()} cores ({_cpu_model()}), {_memory_gib():.0f} GiB of memory, "
        f"Linux {platform.release()}"
    )
    programs = [f"Python {platform.python_version()}", f"pyfuse3 {version('pyfuse3')}"]
    programs += [text for name in target_names if (text := _program_version(name))]
    moment = (
        f"cdpfs {_revision()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, "
        f"load average at the start {os.getloadavg()[0]:.1f}"
    )
    lines = [processors, _disk(work), ", ".join(programs), moment, f"command: `{command}`"]
    if os.getloadavg()[0] > 0.5:
        lines.append("**the machine was not idle when this began: do not trust the figures**")
    return lines


def filesystem(path: Path) -> str:
    """The type of the filesystem that `path` is on, such as ext4."""
    return _findmnt(path, "FSTYPE")


def _findmnt(path: Path, column: str) -> str:
    command = ["findmnt", "-n", "-o", column, "-T", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _disk(work: Path) -> str:
    device = _findmnt(work, "SOURCE")
    text = f"{filesystem(work)} on {device} ({_findmnt(work, 'OPTIONS')})"
    name = re.sub(r"\[.*", "", device).removeprefix("/dev/")
    for folder in (Path("/sys/class/block") / name, Path("/sys/class/block") / name / ".."):
        queue = folder / "queue"
        if (queue / "rotational").exists():
            kind = (
                "announced as rotating"
                if (queue / "rotational").read_text().strip() == "1"
                else "announced as flash"
            )
            cache = (queue / "write_cache").read_text().strip()
            text += f", {kind}, {cache} cache"
            break
    return text


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _program_version(name: str) -> str:
    if name not in {"bindfs", "mergerfs"}:
        return ""
    done = subprocess.run([name, "--version"], capture_output=True, text=True)
    found = re.search(r"[0-9]+(\.[0-9]+)+", done.stdout + done.stderr)
    return f"{name} {found[0]}" if found else name


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "of unknown revision"
