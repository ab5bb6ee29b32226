"""From a volume's settings to the rules that a plan follows now. Pure."""

from __future__ import annotations

from tape.plan import NS_PER_S, Rules
from tape.settings import PoolSettings, TapeSettings


def rules_of(settings: TapeSettings, volume_uuid: str, now_ns: int, free_doors: int) -> list[Rules]:
    """The rules of each pool, in the order of the settings. BadSettings."""
    week = settings.window()
    is_open = week is None or week.at(now_ns) is not None
    opens_ns = 0 if week is None or is_open else week.next_change(now_ns) or 0
    return [
        _of_pool(settings, pool, volume_uuid, now_ns)._replace(
            is_open=is_open, opens_ns=opens_ns, free_doors=free_doors
        )
        for pool in settings.pools
    ]


def _of_pool(settings: TapeSettings, pool: PoolSettings, volume_uuid: str, now_ns: int) -> Rules:
    rotation = pool.rotation()
    return Rules(
        pool=pool.name,
        volume_uuid=volume_uuid,
        start_bytes=settings.start.staged_bytes,
        start_age_ns=int(settings.start.age_s * NS_PER_S),
        full_every_ns=pool.full_every_ns,
        rotated_ns=rotation.last(now_ns) if rotation is not None else 0,
        rotates_ns=rotation.next(now_ns) if rotation is not None else 0,
    )
