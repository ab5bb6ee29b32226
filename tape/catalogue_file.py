"""The catalogue on disk: a snapshot of the state and the events behind it.

Duty: each event is on disk before it counts, and what was written is read back or refused. Blocking
calls; one thread; whoever writes holds the library's lock. `read_catalogue` needs no lock.

    catalogue/snapshot            the state when log N was begun
    catalogue/events-N.log        what happened since; N counts from 1

The snapshot is two lines: `cdpfs-catalogue VERSION N CHECKSUM`, and the state as JSON. A line of
the log is `CHECKSUM NUMBER JSON`, with the number from 0 on and one or more events, which happen
together or not at all. CHECKSUM is BLAKE3, 32 hexadecimal digits of it, over what comes behind it
in the line (and, in the snapshot, over the second line; in the log, with N before it).

The order of writing: an event is appended and synced before the caller goes on. When a log has
grown long, an empty log N+1 is made, then the snapshot for it takes the place of the old one in one
step, then log N goes. So after a power cut there are a snapshot N and a log N, and maybe a log N-1
or an empty log N+1 that nobody needs.

Only the last line can be torn by a power cut; it was never acknowledged, and it is cut off. Bytes
that are wrong anywhere else are damage: nothing is guessed, since `cdpfs tape scan` finds out
everything from the cartridges.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from blake3 import blake3

from store import durable
from store.errors import StoreError
from tape.bookkeeping import apply
from tape.catalogue import AnyEvent
from tape.catalogue_state import STATE_VERSION, State
from tape.errors import BadCatalogue, DamagedCatalogue, ImpossibleEvent, LibraryExists

SNAPSHOT_NAME: Final = "snapshot"
MAX_LOG_BYTES: Final = 4 << 20
"""A log that is longer is folded into a snapshot, unless the snapshot is longer still."""
MAX_LINE_BYTES: Final = 16 << 20
MAX_SNAPSHOT_BYTES: Final = 1 << 30
_MAGIC: Final = b"cdpfs-catalogue"
_LOG_NAME = re.compile(r"events-(\d{1,18})\.log")
_DIGITS: Final = 32
_RECORD = re.compile(rb"[0-9a-f]{32} \d{1,18} \[")
_READ_TRIES: Final = 20
"""How often a reader without the lock begins anew when a snapshot was taken meanwhile."""

_encoder = msgspec.json.Encoder()
_events = msgspec.json.Decoder(list[AnyEvent])
_state = msgspec.json.Decoder(State)


class _Torn(NamedTuple):
    """A log: what is good of it, and whether something was cut off in the writing of its end."""

    events: list[list[AnyEvent]]
    good_bytes: int
    torn: bool


class _Generation(NamedTuple):
    """Everything that is on disk."""

    number: int
    state: State
    lines: int
    good_bytes: int
    torn: bool
    snapshot_bytes: int


class CatalogueFile:
    """The catalogue of a library, to be written. Get it with `open`."""

    def __init__(self, folder: Path, generation: _Generation, max_log_bytes: int) -> None:
        self.state = generation.state
        """Changed in place, by `append` alone."""
        self._folder = folder
        self._max_log_bytes = max_log_bytes
        self._number = generation.number
        self._lines = generation.lines
        self._size = generation.good_bytes
        self._snapshot_bytes = generation.snapshot_bytes
        self._fd = -1
        self._broken = False

    @classmethod
    def create(cls, folder: Path) -> CatalogueFile:
        """Begin the catalogue of a new library. LibraryExists; StoreError."""
        if folder.is_dir() and any(folder.iterdir()):
            raise LibraryExists(f"{folder} holds a catalogue already")
        return cls.replace(folder, State())

    @classmethod
    def open(cls, folder: Path, max_log_bytes: int = MAX_LOG_BYTES) -> CatalogueFile:
        """Read what is there, cut off a torn end, and be ready to go on.

        DamagedCatalogue, also when it is missing; StoreError.
        """
        generation = _read(folder)
        catalogue = cls(folder, generation, max_log_bytes)
        with _as_store_errors():
            catalogue._fd = durable.open_file(_log_path(folder, generation.number))
            if generation.torn:
                durable.truncate(catalogue._fd, generation.good_bytes)
            # What a process wrote that was killed before its sync is believed from now on.
            durable.fdatasync(catalogue._fd)
            catalogue._tidy()
        return catalogue

    @classmethod
    def replace(cls, folder: Path, state: State) -> CatalogueFile:
        """Throw away what is there, whatever it is, for a state that was found otherwise.

        In one step: after a crash it is the old catalogue or the new one. StoreError.
        """
        with _as_store_errors():
            durable.make_dir(folder)
        numbers = [number for number, _ in _logs(folder)]
        catalogue = cls(folder, _Generation(0, state, 0, 0, False, 0), MAX_LOG_BYTES)
        catalogue._begin(max(numbers, default=0) + 1)
        return catalogue

    def append(self, *events: AnyEvent) -> None:
        """Record events that happen together; on disk, and in `state`, when it returns.

        ImpossibleEvent, with nothing recorded; StoreError (StoreFull, StoreFault), after which the
        catalogue must be opened anew: whether they were recorded is not known, `state` has them.
        """
        if self._broken:
            raise BadCatalogue("the catalogue could not be written before", "run the command again")
        checked = _checked(self.state, events)
        line = _line(self._number, self._lines, events)
        if len(line) > MAX_LINE_BYTES:
            raise BadCatalogue(f"{len(line)} bytes are too much for one record")
        for event in checked:
            apply(self.state, event)
        try:
            durable.pwrite_all(self._fd, line, self._size)
            durable.fdatasync(self._fd)
        except BaseException:
            self._broken = True
            raise
        self._size += len(line)
        self._lines += 1
        if self._size > max(self._max_log_bytes, self._snapshot_bytes):
            self.snapshot()

    def snapshot(self) -> None:
        """Fold the log into a snapshot. StoreError."""
        try:
            self._begin(self._number + 1)
        except BaseException:
            self._broken = True
            raise

    def close(self) -> None:
        """Let go. Closing twice is fine."""
        if self._fd >= 0:
            durable.close_file(self._fd)
            self._fd = -1
        self._broken = True

    def __enter__(self) -> CatalogueFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, number: int) -> None:
        """Begin log `number`, and write the state as the snapshot for it."""
        data = _snapshot(number, self.state)
        path = _log_path(self._folder, number)
        with _as_store_errors():
            # One may be there that is empty, when this was begun before and not finished.
            durable.drop(path)
            fd = durable.create_file(path)
            try:
                durable.fsync_dir(self._folder)
                durable.write_file_atomically(self._folder / SNAPSHOT_NAME, data)
            except BaseException:
                durable.close_file(fd)
                raise
        if self._fd >= 0:
            durable.close_file(self._fd)
        self._fd = fd
        self._number, self._lines, self._size = number, 0, 0
        self._snapshot_bytes = len(data)
        self._tidy()

    def _tidy(self) -> None:
        for number, path in _logs(self._folder):
            if number != self._number:
                durable.drop(path)


def read_catalogue(folder: Path) -> State:
    """What the catalogue says; also while another process writes it. DamagedCatalogue."""
    for _ in range(_READ_TRIES):
        before = _stamp(folder)
        try:
            state = _read(folder).state
        except (DamagedCatalogue, FileNotFoundError):
            if _stamp(folder) == before:
                raise
            continue
        if _stamp(folder) == before:
            return state
    raise BadCatalogue(f"{folder} changes all the time", "try again")


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Another one when another snapshot was taken."""
    try:
        found = (folder / SNAPSHOT_NAME).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise durable.mapped(error) from error


def _checked(state: State, events: tuple[AnyEvent, ...]) -> list[AnyEvent]:
    """The events as they will be read back. ImpossibleEvent; the state stays as it is.

    They are checked as the reader checks them: what can't be read back must not be written. One
    event is refused by `apply` before it changes anything; several are tried on a copy first.
    """
    try:
        checked = _events.decode(_encoder.encode(events))
    except msgspec.ValidationError as error:
        raise ImpossibleEvent(f"this can't be recorded: {error}") from error
    if len(checked) > 1:
        copy = _state.decode(_encoder.encode(state))
        for event in checked:
            apply(copy, event)
    return checked


def _line(number: int, count: int, events: tuple[AnyEvent, ...]) -> bytes:
    body = b"%d %s" % (count, _encoder.encode(events))
    return b"%s %s\n" % (_checksum(number, body), body)


def _checksum(number: int, body: bytes) -> bytes:
    return blake3(b"%d " % number + body).hexdigest()[:_DIGITS].encode()


def _snapshot(number: int, state: State) -> bytes:
    body = _encoder.encode(state)
    return b"%s %d %d %s\n%s\n" % (_MAGIC, STATE_VERSION, number, _checksum(number, body), body)


def _log_path(folder: Path, number: int) -> Path:
    return folder / f"events-{number}.log"


def _logs(folder: Path) -> list[tuple[int, Path]]:
    found = ((_LOG_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def _read(folder: Path) -> _Generation:
    """All that is there. DamagedCatalogue."""
    number, state, size = _read_snapshot(folder / SNAPSHOT_NAME)
    for other, path in _logs(folder):
        if other > number and path.stat().st_size:
            raise DamagedCatalogue(f"{path} belongs to a snapshot that is not there")
    path = _log_path(folder, number)
    log = _read_log(path, number)
    for count, events in enumerate(log.events):
        for event in events:
            try:
                apply(state, event)
            except ImpossibleEvent as error:
                raise DamagedCatalogue(f"{path}, line {count + 1}: {error}") from error
    return _Generation(number, state, len(log.events), log.good_bytes, log.torn, size)


def _read_snapshot(path: Path) -> tuple[int, State, int]:
    """The number of its log, the state and the size."""
    data = _content(path, MAX_SNAPSHOT_BYTES)
    head, _, rest = data.partition(b"\n")
    found = re.fullmatch(rb"cdpfs-catalogue (\d{1,9}) (\d{1,18}) ([0-9a-f]{32})", head)
    if found is None:
        raise DamagedCatalogue(f"{path} is not a snapshot of a catalogue")
    if int(found[1]) > STATE_VERSION:
        raise BadCatalogue(f"{path} was written by a newer cdpfs", "update cdpfs on this machine")
    number, body = int(found[2]), rest.removesuffix(b"\n")
    if _checksum(number, body) != found[3] or not rest.endswith(b"\n"):
        raise DamagedCatalogue(f"{path} is damaged")
    try:
        return number, _state.decode(body), len(data)
    except msgspec.MsgspecError as error:
        raise DamagedCatalogue(f"{path}: {error}") from error


def _content(path: Path, most: int) -> bytes:
    """A file's bytes. DamagedCatalogue when it is missing or too long."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise DamagedCatalogue(f"{path} has {size} bytes, more than it can have")
            return file.read(most)
    except FileNotFoundError:
        raise DamagedCatalogue(f"{path} is missing") from None
    except OSError as error:
        raise durable.mapped(error) from error


def _read_log(path: Path, number: int) -> _Torn:
    """The lines of a log up to a torn end. DamagedCatalogue when it is not the end."""
    data = _content(path, MAX_SNAPSHOT_BYTES + MAX_LINE_BYTES)
    lines: list[list[AnyEvent]] = []
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at)
        events = None if stop < 0 else _parsed(number, len(lines), data[at:stop])
        if events is None:
            _check_torn(path, number, data, at)
            return _Torn(lines, at, True)
        lines.append(events)
        at = stop + 1
    return _Torn(lines, at, False)


def _parsed(number: int, count: int | None, line: bytes) -> list[AnyEvent] | None:
    """The events of a line; None when it is not a whole one with that count (None: with any)."""
    checksum, _, body = line.partition(b" ")
    if _checksum(number, body) != checksum:
        return None
    which, _, events = body.partition(b" ")
    if count is not None and which != b"%d" % count:
        return None
    try:
        return _events.decode(events)
    except msgspec.MsgspecError:
        return None


def _check_torn(path: Path, number: int, data: bytes, at: int) -> None:
    """DamagedCatalogue when what is wrong at byte `at` can't be the one line that was not synced.

    A good line behind it was appended later, thus after this one had been synced.
    """
    rest = data[at:]
    if len(rest) > MAX_LINE_BYTES:
        raise DamagedCatalogue(f"{path} is damaged at byte {at}")
    # Not only where lines begin: it may be a newline that is wrong.
    for found in _RECORD.finditer(rest):
        line, newline, _ = rest[found.start() :].partition(b"\n")
        if (newline or found.start()) and _parsed(number, None, line) is not None:
            raise DamagedCatalogue(f"{path} is damaged at byte {at}, in front of good records")
