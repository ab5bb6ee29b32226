"""`cdpfs mark`: name this moment, between a command that brings programs to rest and one after.

Duty: the order of the three, and that the second command runs whatever happened to the others.
"""

from __future__ import annotations

import subprocess

from console.control import Control
from console.errors import ConsoleError, WrongUse
from console.output import note, print_json, say, time_json, time_text
from console.volumes import volume_of
from timetravel.errors import MomentError
from timetravel.moment import valid_mark_name


def set_mark(
    name: str,
    directory: str,
    store_root: str | None,
    before: str | None,
    after: str | None,
    as_json: bool,
) -> None:
    """Set the mark `name`; `before` and `after` are shell commands or None."""
    try:
        name = valid_mark_name(name)
    except MomentError as error:
        raise WrongUse(str(error), error.hint) from error
    store = volume_of(directory, store_root)
    with Control(store) as control:
        try:
            if before is not None:
                _run("--pre", before)
            point = control.call("mark", {"name": name})
        finally:
            if after is not None:
                _run_after(after)
    lsn, time_ns = int(str(point["lsn"])), int(str(point["time_ns"]))
    if as_json:
        print_json({"name": name, "lsn": lsn, "time": time_json(time_ns), "time_ns": time_ns})
    else:
        say(f"marked  {name}  at {time_text(time_ns)} (LSN {lsn})")
        say(f"  ls {store.config.mount_point}/.snapshots/@mark:{name}/")


def _run(option: str, command: str) -> None:
    code = subprocess.run(command, shell=True, check=False).returncode
    if code:
        raise ConsoleError(
            f"the {option} command failed with exit code {code}, so no mark was set: {command}",
            "run it alone to see what is wrong with it",
        )


def _run_after(command: str) -> None:
    """The command after the mark; its failure does not take the mark back."""
    code = subprocess.run(command, shell=True, check=False).returncode
    if code:
        note(f"cdpfs: the --post command failed with exit code {code}: {command}")
