"""`mtx` over a virtual library, for machines without a real one.

Speaks the command line of mtx 1.3.12 and prints as it does (taken from a run against a changer of
tgtd), so that the shipped mtx-changer script can be tested on top of it. The program itself only
hands its arguments to this process, which has the library, since it is started very often.
"""

from __future__ import annotations

import contextlib
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tape.changer import Changer, Element
from tape.errors import TapeError

PROGRAM = """#!{python} -SEs
import socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
line.sendall("\\0".join(sys.argv[1:]).encode())
line.shutdown(socket.SHUT_WR)
code, _, said = line.makefile("r").read().partition("\\n")
print(said)
sys.exit(int(code))
"""


def _tag(element: Element, equals: str) -> str:
    return f":VolumeTag{equals}{element.barcode:<32}"


def status(changer: Changer, home: str) -> str:
    """As `mtx status`."""
    drives, slots, doors = changer.inventory()
    counts = f"{len(drives)} Drives, {len(slots + doors)} Slots ( {len(doors)} Import/Export )"
    lines = [f"  Storage Changer {home}:{counts}"]
    for drive in drives:
        place = f"Storage Element {drive.origin} Loaded"
        held = f"Full ({place if drive.origin else 'Unknown Storage Element Loaded'})"
        said = held + _tag(drive, " = ") if drive.full else "Empty"
        lines.append(f"Data Transfer Element {drive.number}:{said}")
    for element in slots + doors:
        kind = " IMPORT/EXPORT" if element in doors else ""
        said = "Full " if element.full else "Empty"
        lines.append(f"      Storage Element {element.number}{kind}:{said}{_tag(element, '=')}")
    return "\n".join(lines)


def run(changer: Changer, home: str, words: Sequence[str]) -> str:
    """What the command prints. TapeError."""
    numbers = [int(word) for word in words[1:]]
    match words[0]:
        case "status":
            return status(changer, home)
        case "inventory":
            changer.inventory(rescan=True)
            return ""
        case "load":
            changer.load(numbers[0], numbers[1])
            return f"Loading media from Storage Element {words[1]} into drive {words[2]}...done"
        case "unload":
            changer.unload(numbers[1], numbers[0])
            return f"Unloading drive {words[2]} into Storage Element {words[1]}...done"
        case "transfer":
            changer.transfer(numbers[0], numbers[1])
            return ""
        case word:
            raise TapeError(f"no such command: {word}")


@contextlib.contextmanager
def serving(changer: Changer, folder: Path) -> Iterator[Path]:
    """The program, as long as the block lasts. `folder` is empty."""
    address, program = str(folder / "socket"), folder / "mtx"

    class Line(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _f, name, *words = self.rfile.read().decode().split("\0")
            try:
                answer = f"0\n{run(changer, name, words)}"
            except TapeError as error:
                answer = f"1\nMOVE MEDIUM: {error}"
            self.wfile.write(answer.encode())

    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    with socketserver.UnixStreamServer(address, Line) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield program
        finally:
            server.shutdown()
            thread.join()
