"""The exceptions of the console.

ConsoleError                a message, hints and the exit code that a command ends with
├── NotMounted              the volume's daemon does not run, or does not answer
├── DaemonError             the daemon answered with an error, or died while starting
└── WrongUse                the arguments do not fit together

Everything that lower packages raise is turned into an exit code in one place, `failures`.
"""

from __future__ import annotations

from typing import ClassVar

from console.exit_codes import ExitCode


class ConsoleError(Exception):
    """A command can't go on. `hints` say what to do next, one line each."""

    default_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, message: str, *hints: str, code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.hints = hints
        self.code = self.default_code if code is None else code


class NotMounted(ConsoleError):
    """Nobody answers on the volume's control socket."""

    default_code = ExitCode.UNREACHABLE


class DaemonError(ConsoleError):
    """The daemon refused or failed. `kind` is its word for the reason, empty if it gave none."""

    def __init__(self, message: str, *hints: str, kind: str = "") -> None:
        super().__init__(message, *hints)
        self.kind = kind


class WrongUse(ConsoleError):
    """The arguments of a command do not fit together."""

    default_code = ExitCode.USAGE
