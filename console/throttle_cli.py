"""`cdpfs throttle …`: the commands and their options. Declarations only, as in `cli`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from console.options import Directory, JsonOption, StoreOption


class _RateFirst(TyperGroup):
    """A group whose default command takes the place of a sub-command: `throttle 56k`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; what is no sub-command belongs to `set`."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["set", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="throttle",
    cls=_RateFirst,
    help="How fast the replica may be sent: cdpfs throttle [RATE|off|pause|auto] [DIR] [OPTIONS]; "
    "without a rate: what holds now, and why. RATE is in bits per second, such as 56k or 2M.",
    rich_markup_mode=None,
)
schedule = typer.Typer(
    name="schedule",
    help="Limits by the hours of the week.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(schedule)

VolumeOption = Annotated[
    str | None, typer.Option("--volume", metavar="V", help="A volume by name, instead of DIR.")
]
HostOption = Annotated[
    bool, typer.Option("--host", help="The limit that all volumes of this host share.")
]


@app.command("set")
def set_(
    rate: Annotated[
        str | None,
        typer.Argument(
            metavar="RATE",
            help="Such as 56k or 2M; off: no limit; pause: nothing; auto: by the calendar again.",
        ),
    ] = None,
    directory: Directory = ".",
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="D", help="For so long, such as 2h or 1h30m."),
    ] = None,
    volume: VolumeOption = None,
    host: HostOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the limit by hand; without a rate, show it. The word `set` may be left out."""
    from console import throttling

    target = throttling.Target(directory, volume, host, store)
    if rate is not None and throttling.is_path(rate):
        # `cdpfs throttle DIR` asks for what holds there.
        throttling.show(throttling.Target(rate, volume, host, store), as_json)
    elif rate is None:
        throttling.show(target, as_json)
    else:
        throttling.set_limit(target, rate, duration, as_json)


@app.command()
def weight(
    share: Annotated[
        float,
        typer.Argument(metavar="W", min=0.001, max=1000, help="Twice as much, twice the rate."),
    ],
    directory: Directory = ".",
    volume: VolumeOption = None,
    store: StoreOption = None,
) -> None:
    """Set a volume's weight when the volumes of a host share its limit; 1 unless set."""
    from console import throttling

    throttling.set_weight(throttling.Target(directory, volume, False, store), share)


@schedule.command("list")
def list_(
    directory: Directory = ".",
    volume: VolumeOption = None,
    host: HostOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """The rules, numbered; the first that fits counts."""
    from console import throttling

    throttling.list_rules(throttling.Target(directory, volume, host, store), as_json)


@schedule.command()
def add(
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Such as 256k; off; pause.")],
    directory: Directory = ".",
    days: Annotated[
        str, typer.Option(metavar="DAYS", help="Such as mon-fri or sat,sun; every day if left out.")
    ] = "",
    hours: Annotated[
        str, typer.Option(metavar="HOURS", help="Such as 8-18 or 22:00-06:00, local time.")
    ] = "",
    at: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="As rule number N; last if left out.")
    ] = None,
    volume: VolumeOption = None,
    host: HostOption = False,
    store: StoreOption = None,
) -> None:
    """Add a rule."""
    from console import throttling

    target = throttling.Target(directory, volume, host, store)
    throttling.add_rule(target, rate, days, hours, at)


@schedule.command()
def remove(
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Its number in the list.")],
    directory: Directory = ".",
    volume: VolumeOption = None,
    host: HostOption = False,
    store: StoreOption = None,
) -> None:
    """Remove a rule."""
    from console import throttling

    throttling.remove_rule(throttling.Target(directory, volume, host, store), number)
