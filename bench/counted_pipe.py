"""A remote shell that reaches no farther than this machine, and counts what goes through it.

    python counted_pipe.py FILE [-OPTION [VALUE]]... HOST COMMAND...

As rsync, borg and restic call ssh. Runs COMMAND with its standard input and output connected to
ours, and adds a line to FILE at the end: bytes to it, bytes from it. Imports nothing of cdpfs: it
is run as a file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from threading import Thread

CHUNK_BYTES = 1 << 16
WITH_VALUE = ("-l", "-o", "-p")


def main(arguments: list[str]) -> int:
    """The process; the exit code is the command's."""
    path, *rest = arguments
    while rest[0].startswith("-"):
        del rest[: 2 if rest[0] in WITH_VALUE else 1]
    command = rest[1:]
    # One word is a line for the remote shell, more are joined to one, as ssh does it.
    process = subprocess.Popen(
        ["sh", "-c", " ".join(command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    counts = [0, 0]
    ends = os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno())
    process.stdin.close()
    process.stdout.close()
    # A daemon thread: our own input may stay open after the command has ended.
    Thread(target=_pump, args=(0, ends[0], counts, 0), daemon=True).start()
    _pump(ends[1], 1, counts, 1)
    code = process.wait()
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{counts[0]} {counts[1]}\n")
    return code


def _pump(source: int, sink: int, counts: list[int], number: int) -> None:
    """Carry everything over, and close the other end."""
    try:
        while data := os.read(source, CHUNK_BYTES):
            counts[number] += len(data)
            while data:
                data = data[os.write(sink, data) :]
    except BrokenPipeError:
        return
    finally:
        os.close(sink)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
