"""The options by which a command that reads the past reads a vault's instead.

Duty: add them to a command's signature and gather what they say in a `VaultSource`. Declarations;
nothing is opened here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class VaultSource:
    """Where a volume is read from: a vault over a line (`url`), or a vault's folder (`root`)."""

    url: str | None = None
    root: str | None = None
    volume: str | None = None
    line: str | None = None
    token_file: str | None = None
    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    limit_rate: str | None = None


def _option(help_text: str, metavar: str, *flags: str) -> Any:
    return Annotated[str | None, typer.Option(*flags, metavar=metavar, help=help_text)]


def _options(flags: tuple[str, ...]) -> dict[str, Any]:
    return {
        "url": _option("Read it from a vault: https://HOST:PORT.", "URL", *flags),
        "root": _option("Read it from a vault's folder.", "R", "--root"),
        "volume": _option("Which volume of the vault, by UUID or name.", "V", "--volume"),
        "line": _option("Another line of its history than main.", "L", "--line"),
        "token_file": _option("A site's or reader's token.", "F", "--token-file"),
        "ca": _option("The vault's own certificate authority, PEM.", "F", "--ca"),
        "client_cert": _option("A certificate of ours, PEM.", "F", "--client-cert"),
        "client_key": _option("Its key, PEM.", "F", "--client-key"),
        "limit_rate": _option("Bits per second at the most, such as 2M.", "RATE", "--limit-rate"),
    }


def reads_vaults(*flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with `source`, and instead of that, on the command line, the options above.

    `flags` name the vault's address; `--from` and `--vault` unless the command uses one of them.
    """
    options = _options(flags or ("--from", "--vault"))

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "source"]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in options.items()
        ]

        @functools.wraps(command)
        def run(*arguments: Any, **values: Any) -> None:
            said = VaultSource(**{name: values.pop(name, None) for name in options})
            source = said if said != VaultSource() else None
            command(*arguments, **values, source=source)

        parameters = [*own, *more]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__
        return run

    return extend
