"""`tape.toml`: what it says by default, what it refuses, and that it is read as it was written."""

from pathlib import Path

import pytest
from whenever import Instant

from tape.errors import BadSettings
from tape.settings import (
    PoolSettings,
    RotateSettings,
    SealSettings,
    TapeSettings,
    WindowSettings,
    default_pool,
    drop_settings,
    load_settings,
    save_settings,
)


def ns(iso: str) -> int:
    return Instant(iso).timestamp(unit="nanosecond")


def settings(**more: object) -> TapeSettings:
    pools = [default_pool("onsite"), default_pool("offsite")]
    return TapeSettings(**{"library": "/lib", "pools": pools, **more})  # type: ignore[arg-type]


def test_a_store_without_settings_has_no_library(tmp_path: Path) -> None:
    assert load_settings(tmp_path) is None
    drop_settings(tmp_path)


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    wanted = settings(
        windows=[WindowSettings(days="mon-fri", hours="20:00-06:00")],
        seal=SealSettings(key_file="/etc/cdpfs.key"),
    )
    save_settings(tmp_path, wanted)
    assert load_settings(tmp_path) == wanted
    drop_settings(tmp_path)
    assert load_settings(tmp_path) is None


def test_the_pool_that_goes_out_is_kept_longer_and_rotates_weekly() -> None:
    onsite, offsite = settings().pools
    assert onsite.rotation() is None
    assert offsite.keep_days > onsite.keep_days
    rotation = offsite.rotation("Europe/Berlin")
    assert rotation is not None
    assert rotation.next(ns("2026-11-25T12:00:00Z")) == ns("2026-11-27T17:00:00Z")


def test_a_window_holds_by_the_local_clock() -> None:
    week = settings(windows=[WindowSettings(hours="20:00-06:00")]).window("Europe/Berlin")
    assert week is not None
    assert week.at(ns("2026-11-25T18:59:00Z")) is None
    assert week.at(ns("2026-11-25T19:00:00Z")) == 0
    assert settings().window() is None


def test_an_archive_takes_at_most_a_quarter_of_a_cartridge() -> None:
    assert settings().archive_bytes_for(0) == 8 << 30
    assert settings().archive_bytes_for(4 << 30) == 1 << 30
    assert settings(archive_bytes=1 << 28).archive_bytes_for(4 << 30) == 1 << 28
    assert settings().archive_bytes_for(1 << 10) == 1 << 16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"library": "lib"}, "library"),
        ({"pools": []}, "pools"),
        ({"pools": [default_pool("a"), default_pool("a")]}, "twice"),
        ({"pools": [default_pool("scratch")]}, "scratch"),
        ({"pools": [default_pool("On Site")]}, "name"),
        ({"pools": [PoolSettings(name="a", keep_days=0)]}, "keep_days"),
        ({"pools": [PoolSettings(name="a", rotate=RotateSettings(days="someday"))]}, "rotation of"),
        ({"pools": [PoolSettings(name="a", rotate=RotateSettings(time="25:00"))]}, "rotation of"),
        ({"windows": [WindowSettings(hours="8")]}, "windows"),
        ({"archive_bytes": 17}, "archive_bytes"),
    ],
)
def test_what_can_not_be_set_up_is_refused_with_its_place(
    tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(BadSettings, match=message):
        save_settings(tmp_path, settings(**wrong))
    assert load_settings(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("library = ", "Invalid value"),
        ('library = "/l"\nspeed = 3', "speed"),
        ('library = "/l"\n[[pools]]\nname = "a"\n[[pools]]\nname = "a"', "twice"),
        ('library = "/l"\n[[pools]]\nname = "a"\n[pools.rotate]\ntime = "x"', "time of the day"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_to_do(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "tape.toml").write_text(text)
    with pytest.raises(BadSettings, match=message) as caught:
        load_settings(tmp_path)
    assert "tape.toml" in str(caught.value)
    assert caught.value.hint
