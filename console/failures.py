"""The one place that turns exceptions into what a person reads and a script checks.

Duty: message, hints and exit code for every exception of every package; for an unforeseen one a
short message, with the traceback in a file. Pure but for that file; any thread.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass

import fsd.errors
import replicator.errors
import store.errors
import tape.errors
import timetravel.errors
from console.errors import ConsoleError, DaemonError
from console.exit_codes import ExitCode

SIGNALLED = 128
"""A shell's exit code for a program that a signal ended is this plus the signal's number."""


_OURS = (
    store.errors.StoreError,
    timetravel.errors.TimetravelError,
    fsd.errors.FsdError,
    replicator.errors.ReplicationError,
    tape.errors.TapeError,
)


@dataclass(frozen=True)
class Failure:
    """What is said about an exception, and the exit code."""

    code: ExitCode
    message: str
    hints: tuple[str, ...] = ()


_BY_ERRNO = {
    errno.ENOSPC: (ExitCode.SPACE, "free some space there, then try again"),
    errno.EDQUOT: (ExitCode.SPACE, "the quota is used up: free some space, then try again"),
    errno.EROFS: (ExitCode.SPACE, "the disk is read-only: choose another place"),
    errno.EACCES: (ExitCode.PERMISSION, "run it as the owner of the files, or as root"),
    errno.EPERM: (ExitCode.PERMISSION, "run it as the owner of the files, or as root"),
    errno.ENOTCONN: (
        ExitCode.UNREACHABLE,
        "the daemon of this mount is gone; bring it back: cdpfs mount DIR",
    ),
}


def explain(error: Exception) -> Failure:
    """What to say about `error`, and the code to exit with."""
    if isinstance(error, DaemonError) and error.kind:
        return Failure(_code_of_kind(error.kind, error.code), str(error), error.hints)
    if isinstance(error, replicator.errors.PastRefused):
        return Failure(_code_of_kind(error.kind, ExitCode.FAILURE), str(error), (error.hint,))
    if isinstance(error, ConsoleError):
        return Failure(error.code, str(error), error.hints)
    if isinstance(error, _OURS):
        return Failure(code_of_class(type(error)), str(error), (error.hint,))
    if isinstance(error, OSError):
        return _explain_os_error(error)
    return _explain_unforeseen(error)


_BY_CLASS: dict[type[Exception], ExitCode] = {
    store.errors.StoreError: ExitCode.FAILURE,
    store.errors.StoreBusy: ExitCode.BUSY,
    store.errors.StoreFull: ExitCode.SPACE,
    store.errors.DamagedError: ExitCode.DAMAGE,
    store.errors.UnsupportedFormat: ExitCode.FORMAT,
    store.errors.BadSettings: ExitCode.USAGE,
    store.errors.BadKeyFile: ExitCode.USAGE,
    store.errors.KeyMissing: ExitCode.PERMISSION,
    store.errors.NoSuchVolume: ExitCode.NO_VOLUME,
    store.errors.VolumeExists: ExitCode.BUSY,
    store.errors.RecoveryUnfinished: ExitCode.BUSY,
    store.errors.NotEmpty: ExitCode.USAGE,
    store.errors.NotSeeded: ExitCode.UNREACHABLE,
    store.errors.NeverCaptured: ExitCode.NO_PATH,
    store.errors.InconsistentLog: ExitCode.DAMAGE,
    timetravel.errors.TimetravelError: ExitCode.FAILURE,
    timetravel.errors.MomentError: ExitCode.NO_MOMENT,
    timetravel.errors.MomentInFuture: ExitCode.NO_MOMENT,
    timetravel.errors.MomentBeforeProtection: ExitCode.NO_MOMENT,
    timetravel.errors.UnknownMark: ExitCode.NO_MOMENT,
    timetravel.errors.NoSuchPath: ExitCode.NO_PATH,
    timetravel.errors.NoSuchNode: ExitCode.NO_PATH,
    timetravel.errors.NotADirectory: ExitCode.NO_PATH,
    fsd.errors.FsdError: ExitCode.FAILURE,
    fsd.errors.MountRefused: ExitCode.USAGE,
    fsd.errors.AlreadyMounted: ExitCode.BUSY,
    fsd.errors.NoPermission: ExitCode.PERMISSION,
    fsd.errors.ReadOnlyPlace: ExitCode.SPACE,
    fsd.errors.NoFuse: ExitCode.ENVIRONMENT,
    fsd.errors.MountBusy: ExitCode.BUSY,
    replicator.errors.ReplicationError: ExitCode.FAILURE,
    replicator.errors.LinkDown: ExitCode.UNREACHABLE,
    replicator.errors.VaultBusy: ExitCode.BUSY,
    replicator.errors.Refused: ExitCode.PERMISSION,
    replicator.errors.BadSettings: ExitCode.USAGE,
    replicator.errors.BadShipment: ExitCode.DAMAGE,
    replicator.errors.Sealed: ExitCode.PERMISSION,
    replicator.errors.BadRequest: ExitCode.USAGE,
    replicator.errors.NoVault: ExitCode.NO_VOLUME,
    replicator.errors.UnknownVolume: ExitCode.NO_VOLUME,
    replicator.errors.VaultExists: ExitCode.BUSY,
    replicator.errors.QuotaUsedUp: ExitCode.SPACE,
    replicator.errors.BadParcel: ExitCode.DAMAGE,
    tape.errors.TapeError: ExitCode.FAILURE,
    tape.errors.LibraryBusy: ExitCode.BUSY,
    tape.errors.LibraryUnwritable: ExitCode.SPACE,
    tape.errors.NotReady: ExitCode.LIBRARY,
    tape.errors.NoScratch: ExitCode.NO_SCRATCH,
    tape.errors.NeedsCartridge: ExitCode.NEEDS_CARTRIDGE,
    tape.errors.ChangerJam: ExitCode.LIBRARY,
    tape.errors.WriteProtected: ExitCode.MEDIA,
    tape.errors.MediaError: ExitCode.MEDIA,
    tape.errors.DriveDead: ExitCode.LIBRARY,
    tape.errors.BadCartridge: ExitCode.MEDIA,
    tape.errors.NewerCartridge: ExitCode.FORMAT,
    tape.errors.BadArchive: ExitCode.DAMAGE,
    tape.errors.ArchiveTooLarge: ExitCode.MEDIA,
    tape.errors.BadCatalogue: ExitCode.DAMAGE,
    tape.errors.BadSettings: ExitCode.USAGE,
    tape.errors.NoSuchLibrary: ExitCode.NO_VOLUME,
    tape.errors.NoSuchCartridge: ExitCode.NO_PATH,
    tape.errors.UnknownVolume: ExitCode.NO_VOLUME,
    tape.errors.NoSuchSet: ExitCode.NO_MOMENT,
    tape.errors.LibraryExists: ExitCode.BUSY,
}
"""Of a class, or of its nearest base that stands here."""


def code_of_class(kind: type[Exception]) -> ExitCode:
    """The exit code for exceptions of a class of ours below the console."""
    return next(_BY_CLASS[base] for base in kind.__mro__ if base in _BY_CLASS)


_MODULES = (fsd.errors, store.errors, timetravel.errors, replicator.errors, tape.errors)
_BY_WORD = {"busy": ExitCode.BUSY, "permissionerror": ExitCode.PERMISSION}


def _code_of_kind(kind_name: str, otherwise: ExitCode) -> ExitCode:
    """The daemon's word for an error is the name of its class, in any spelling; so is a vault's."""
    word = kind_name.replace("_", "").lower()
    if word in _BY_WORD:
        return _BY_WORD[word]
    for module in _MODULES:
        for name, kind in vars(module).items():
            if name.lower() == word and isinstance(kind, type) and issubclass(kind, Exception):
                return code_of_class(kind)
    return otherwise


def _explain_os_error(error: OSError) -> Failure:
    code, hint = _BY_ERRNO.get(error.errno or 0, (ExitCode.FAILURE, ""))
    where = error.filename if error.filename2 is None else error.filename2
    reason = error.strerror or str(error)
    name = os.fsdecode(where) if isinstance(where, str | bytes) else None
    return Failure(code, f"{name}: {reason}" if name else reason, (hint,) if hint else ())


def _explain_unforeseen(error: Exception) -> Failure:
    """A bug: one line, and the traceback in a file that only this user can read."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="cdpfs-traceback-", suffix=".txt", delete=False, errors="backslashreplace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return Failure(
        ExitCode.FAILURE,
        f"this should not have happened: {type(error).__name__}: {error}",
        (f"report it with the traceback in {file.name}",),
    )


def report(failure: Failure) -> None:
    """Print a failure to stderr: the message, then what to do next."""
    print(f"cdpfs: {failure.message}", file=sys.stderr)
    for hint in failure.hints:
        for line in hint.splitlines():
            print(f"  next: {line}", file=sys.stderr)
