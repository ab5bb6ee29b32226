"""`cdpfs tape …` without a mount: what the commands say, their JSON and their exit codes."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from console.exit_codes import ExitCode
from console.tape_restoring import register_copy
from store.holds import place_hold, read_holds
from store.types import Lsn
from store.volume import Store, VolumeConfig, list_stores, register
from tape.catalogue import SetOpened
from tape.catalogue_file import CatalogueFile, read_catalogue
from tape.errors import LibraryUnwritable
from tape.library import open_library
from tape.settings import load_settings
from tests.commandline import run_cdpfs
from tests.tape_books import Books


class Site:
    """A store that is not mounted, and a small library."""

    def __init__(self, top: Path) -> None:
        self.store = Store.create(
            top / "store",
            VolumeConfig(name="shop", uuid="a" * 32, directory=str(top / "tree"), created_ns=1),
        )
        self.home = top / "library"
        self.run(
            "create-library", str(self.home), "--slots", "5", "--drives", "1",
            "--capacity", "128M", "--cartridges", "3",
        )  # fmt: skip

    def run(self, *arguments: str, code: ExitCode = ExitCode.OK) -> str:
        done = run_cdpfs("tape", *arguments, code=code)
        return (done.stderr if code else done.stdout).decode()

    def on_volume(self, command: str, *more: str, code: ExitCode = ExitCode.OK) -> str:
        return self.run(command, "--store", str(self.store.root), *more, code=code)

    def on_library(self, command: str, *more: str, code: ExitCode = ExitCode.OK) -> str:
        return self.run(command, "--library", str(self.home), *more, code=code)

    def json(self, command: str, *more: str) -> Any:
        return json.loads(self.on_library(command, *more, "--json"))

    def attach(self, *more: str, code: ExitCode = ExitCode.OK) -> str:
        return self.on_volume("attach", "--library", str(self.home), *more, code=code)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_library_is_made_once_and_knows_what_is_in_it(site: Site) -> None:
    said = site.json("status")
    assert (said["free_cartridges"], said["cartridges"], said["volume"]) == (3, [], None)
    assert [each["what"] for each in said["others"]] == ["unknown"] * 3
    assert said["alarms"] == []
    assert "already" in site.run("create-library", str(site.home), code=ExitCode.BUSY)
    lost = site.run("status", "--library", str(site.home / "no"), code=ExitCode.NO_VOLUME)
    assert "create-library" in lost


def test_attaching_says_what_will_happen_and_touches_no_cartridge(site: Site) -> None:
    said = site.attach("--copies", "onsite,offsite", "--keep", "onsite=20", "--place",
                       "offsite=the bank", "--rotate", "offsite=mon,thu 06:30")  # fmt: skip
    assert "onsite: a new set with a full every 7 days, kept 20 days, stays" in said
    assert "goes out mon,thu 06:30 (the bank, next " in said
    assert "nothing has been written to a cartridge" in said
    state = read_catalogue(site.home / "catalogue")
    day_ns = 86_400_000_000_000
    assert state.volumes["a" * 32].keep_ns == {"onsite": 20 * day_ns, "offsite": 365 * day_ns}
    assert state.cartridges == {}
    settings = load_settings(site.store.root)
    assert settings is not None
    assert settings.library == str(site.home)


def test_attaching_again_changes_what_is_said_and_nothing_else(site: Site) -> None:
    site.attach("--copies", "onsite,offsite", "--keep", "offsite=99", "--window", "20:00-06:00")
    site.on_volume("attach", "--full-every", "3", "--start-age", "12h", "--start-size", "1G")
    settings = load_settings(site.store.root)
    assert settings is not None
    assert [(p.name, p.keep_days, p.full_every_days) for p in settings.pools] == [
        ("onsite", 35, 3),
        ("offsite", 99, 3),
    ]
    assert (settings.start.age_s, settings.start.staged_bytes) == (43_200, 1 << 30)
    assert settings.windows[0].hours == "20:00-06:00"


def test_a_pool_that_is_no_more_holds_nothing_and_its_set_is_closed(site: Site) -> None:
    site.attach("--copies", "onsite,offsite")
    place_hold(site.store.root, "tape-offsite", Lsn(5))
    place_hold(site.store.root, "tape-onsite", Lsn(5))
    with CatalogueFile.open(site.home / "catalogue") as catalogue:
        for number, pool in enumerate(("onsite", "offsite")):
            catalogue.append(
                SetOpened(
                    time_ns=1,
                    set_id=f"{number:032x}",
                    pool=pool,
                    volume_uuid="a" * 32,
                    base_lsn=1,
                    base_time_ns=1,
                )
            )
    site.attach("--copies", "onsite")
    assert read_holds(site.store.root) == {"tape-onsite": 5}
    assert [each.pool for each in read_catalogue(site.home / "catalogue").sets.values()] == [
        "onsite"
    ]
    site.on_volume("detach")
    assert read_holds(site.store.root) == {}
    assert load_settings(site.store.root) is None
    assert read_catalogue(site.home / "catalogue").volumes["a" * 32].attached is False
    site.on_volume("status", code=ExitCode.USAGE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--keep", "elsewhere=5"), "no pool elsewhere"),
        (("--keep", "onsite=soon"), "not a number of days"),
        (("--rotate", "onsite=friday"), "not days and a time"),
        (("--rotate", "onsite=someday 18:00"), "no days"),
        (("--window", "20:00"), "no hours"),
        (("--copies", "scratch"), "scratch"),
        (("--place", "onsite=box"), "stays in the library"),
        (("--start-age", "long"), "no length of time"),
    ],
)
def test_what_can_not_be_set_up_is_refused_and_changes_nothing(
    site: Site, more: tuple[str, ...], message: str
) -> None:
    assert message in site.attach(*more, code=ExitCode.USAGE)
    assert load_settings(site.store.root) is None
    assert read_catalogue(site.home / "catalogue").volumes == {}


def test_sealing_demands_the_backup_of_the_key(site: Site, tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    backup = str(tmp_path / "backup")
    run_cdpfs("replicate", "key", "create", key, "--backup", backup)
    refused = site.attach("--seal", key, code=ExitCode.USAGE)
    assert "--key-backup" in refused
    assert load_settings(site.store.root) is None
    assert "sealed" in site.attach("--seal", key, "--key-backup", backup)


def test_two_libraries_for_one_volume_are_refused(site: Site, tmp_path: Path) -> None:
    site.attach()
    other = str(tmp_path / "other")
    site.run("create-library", other, "--slots", "2", "--capacity", "64M")
    said = site.on_volume("attach", "--library", other, code=ExitCode.USAGE)
    assert "detach" in said


def test_a_busy_library_is_told_by_its_own_exit_code(site: Site) -> None:
    with open_library(site.home, "a long run"):
        said = site.on_library("inventory", code=ExitCode.BUSY)
        assert "a long run" in said
        assert site.json("status")["free_cartridges"] == 3, "status needs no lock"


def test_settings_can_be_changed_while_the_library_works_but_not_begun(site: Site) -> None:
    with open_library(site.home, "a long run"):
        site.attach(code=ExitCode.BUSY)
        assert load_settings(site.store.root) is None
    site.attach()
    with open_library(site.home, "a long run"):
        site.on_volume("attach", "--keep", "9")
    settings = load_settings(site.store.root)
    assert settings is not None
    assert settings.pools[0].keep_days == 9


def test_a_lost_catalogue_is_told_with_what_to_do(site: Site) -> None:
    (site.home / "catalogue" / "snapshot").unlink()
    for command in ("status", "inventory"):
        said = site.on_library(command, code=ExitCode.DAMAGE)
        assert "missing" in said
        assert "cdpfs tape scan" in said


def test_cartridges_are_labelled_sent_out_and_known_when_they_come_back(site: Site) -> None:
    assert "free for any pool" in site.on_library("label", "A00001L8")
    (made,) = site.json("inventory")["cartridges"]
    assert (made["barcode"], made["state"], made["where"]) == ("A00001L8", "scratch", "slot 1")
    (out,) = site.json("export", "A00001L8", "--place", "box 3", "--taken")
    assert (out["place"], out["where"]) == ("outside", "box 3")
    assert "box 3" in site.on_library("status")
    back = site.json("import", "--cartridge", "A00001L8", "--blank", "1")
    assert sorted((each["what"], each["label_id"]) for each in back["taken"]) == [
        ("blank", ""),
        ("known", made["label_id"]),
    ]
    read = site.json("inventory", "--read-labels")
    assert read["unread"] == []
    assert sorted(each["what"] for each in read["others"]) == ["blank"] * 3
    assert [each["uses"] for each in read["cleaning"]] == [0]
    assert "import slots are empty" in site.on_library("import")


def test_commands_name_what_is_not_there(site: Site) -> None:
    site.on_library("retire", "A00001L8", code=ExitCode.NO_PATH)
    site.on_library("label", "B00001L8", code=ExitCode.NO_PATH)
    site.on_library("label", "--slot", "4", code=ExitCode.NO_PATH)
    site.on_library("label", code=ExitCode.USAGE)
    site.run("inventory", code=ExitCode.USAGE)


def test_a_retired_cartridge_is_shown_and_taken_for_nothing(site: Site) -> None:
    site.on_library("label", "A00001L8")
    assert "never written again" in site.on_library("retire", "A00001L8", "--reason", "worn")
    said = site.json("status")
    assert said["cartridges"][0]["state"] == "retired"
    assert said["free_cartridges"] == 2
    site.on_library("label", "A00001L8", "--force", code=ExitCode.MEDIA)
    site.on_library("retire", "A00001L8", "--lost")
    assert site.json("status")["cartridges"][0]["place"] == "missing"


def test_write_protected_and_foreign_cartridges_have_exit_codes_of_their_own(site: Site) -> None:
    with open_library(site.home, "test") as library:
        assert library.virtual is not None
        library.virtual.set_write_protected("A00001L8", True)
        drive = library.drives[0]
        library.changer.load(2, 0)
        drive.open()
        drive.write_block(b"somebody's data" * 100)
        drive.write_filemark()
        drive.close()
        library.changer.unload(0, 7)
    assert "tab" in site.on_library("label", "A00001L8", code=ExitCode.MEDIA)
    assert "not taken in: A00002L8" in site.on_library("import", code=ExitCode.MEDIA)
    said = site.json("status")
    assert {each["what"] for each in said["others"]} == {"protected", "foreign", "unknown"}
    assert any("A00002L8 in slot 7 is foreign" in each for each in said["alarms"])
    site.on_library("label", "A00002L8", code=ExitCode.MEDIA)
    site.on_library("label", "A00002L8", "--force")


def test_a_library_that_is_named_needs_no_protected_directory(site: Site) -> None:
    site.attach("--copies", "onsite,offsite", "--place", "offsite=the bank")
    books = Books()
    books.cartridge(1, "offsite")
    tape_set = books.open_set(1, "offsite")
    books.full(tape_set, 1)
    books.log(tape_set, 1, 5)
    with CatalogueFile.open(site.home / "catalogue") as catalogue:
        catalogue.append(*books.events)
    listed = site.json("shopping-list")
    assert [each["cartridge"]["barcode"] for each in listed["read"]] == ["A00001L8"]
    assert site.json("shopping-list", "--volume", "shop") == listed
    site.on_library("shopping-list", "--volume", "other", code=ExitCode.NO_VOLUME)
    to = ("--to", str(site.home.parent / "back"))
    said = site.on_library("restore", "a", *to, "--volume", "other", code=ExitCode.NO_VOLUME)
    assert "no volume other is on tape" in said
    assert "next: say which with --volume: shop" in said
    site.on_library("export", "--pool", "nowhere", code=ExitCode.USAGE)
    (out,) = site.json("export", "--pool", "offsite")
    assert (out["barcode"], out["place"]) == ("A00001L8", "door")
    assert "nothing is due" in site.on_library("export")


def test_a_volume_of_another_library_is_not_mistaken_for_one_of_the_named(
    site: Site, tmp_path: Path
) -> None:
    site.attach()
    other = str(tmp_path / "other")
    site.run("create-library", other, "--slots", "2", "--capacity", "64M")
    said = site.on_volume("status", "--library", other, "--json")
    assert json.loads(said)["volume"] is None


def test_a_scan_notes_what_every_cartridge_is_also_those_of_nobody(site: Site) -> None:
    with open_library(site.home, "test") as library:
        library.changer.load(2, 0)
        library.drives[0].open()
        library.drives[0].write_block(b"somebody's data" * 100)
        library.drives[0].write_filemark()
        library.drives[0].close()
        library.changer.unload(0, 2)
    site.on_library("scan")
    said = site.json("status")
    assert [each["what"] for each in said["others"]] == ["blank", "foreign", "blank"]
    assert said["free_cartridges"] == 2
    assert not any("free cartridges are left" in each for each in said["alarms"])


def test_a_copy_of_a_volume_that_is_here_is_not_taken_for_the_volume(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDPFS_HOME", str(tmp_path / "home"))
    register(site.store)
    register_copy(Store.create(tmp_path / "copy", site.store.config))
    assert [each.root for each in list_stores()] == [site.store.root]
    (tmp_path / "home" / next((tmp_path / "home").iterdir()).name).unlink()
    register_copy(Store.open(tmp_path / "copy"))
    assert [each.root for each in list_stores()] == [tmp_path / "copy"]


def test_a_library_on_a_read_only_disk_is_told_as_such(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *arguments: object, **more: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(LibraryUnwritable, match="Read-only"),
        open_library(site.home, "a test"),
    ):
        pass


def test_a_volume_is_freed_of_a_library_that_is_gone_by_giving_it_up(
    site: Site, tmp_path: Path
) -> None:
    site.attach()
    place_hold(site.store.root, "tape-onsite", Lsn(5))
    site.home.rename(tmp_path / "away")
    assert "--give-up" in site.on_volume("detach", code=ExitCode.NO_VOLUME)
    settings = load_settings(site.store.root)
    assert settings is not None
    assert settings.enabled, "what was refused has changed nothing"
    site.on_volume("detach", "--give-up")
    assert load_settings(site.store.root) is None
    assert read_holds(site.store.root) == {}


def test_an_export_says_what_went_when_the_export_slots_are_full(
    site: Site, tmp_path: Path
) -> None:
    site.home = tmp_path / "narrow"
    site.run("create-library", str(site.home), "--doors", "1", "--capacity", "64M", "--slots", "4")
    site.on_library("label", "A00001L8", "A00002L8")
    done = run_cdpfs(
        *("tape", "export", "A00001L8", "A00002L8", "--taken", "--json"),
        *("--library", str(site.home)),
        code=ExitCode.LIBRARY,
    )
    assert [each["barcode"] for each in json.loads(done.stdout)] == ["A00001L8"]
    assert "A00002L8 and what comes behind it stay" in done.stderr.decode()
    assert site.json("export", "A00002L8", "--taken")[0]["place"] == "outside"


def test_loading_and_unloading_say_where_the_cartridge_is(site: Site) -> None:
    site.on_library("label", "A00001L8")
    said = site.json("load", "A00001L8")
    assert (said["barcode"], said["place"]) == ("A00001L8", "drive")
    site.on_library("unload", "--json")
    assert site.json("inventory")["cartridges"][0]["place"] == "slot"


def test_a_library_in_the_volume_itself_is_refused(site: Site, tmp_path: Path) -> None:
    site.home = tmp_path / "tree" / "library"
    site.run("create-library", str(site.home), "--slots", "2", "--capacity", "64M")
    assert "lies in the volume itself" in site.attach(code=ExitCode.USAGE)
    assert load_settings(site.store.root) is None


def test_numbers_that_make_no_library_are_told_with_where_they_are_explained(
    site: Site, tmp_path: Path
) -> None:
    new = str(tmp_path / "new")
    for more in (("--capacity", "5"), ("--block-size", "7")):
        said = site.run("create-library", new, *more, code=ExitCode.USAGE)
        assert "create-library --help" in said
    assert not Path(new).exists()


@pytest.mark.parametrize("place", ["/proc/zz", "file", "file/below"])
def test_a_library_in_an_impossible_place_is_refused_with_what_to_do(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run_cdpfs("tape", "create-library", str(tmp_path / place), code=ExitCode.USAGE)
    assert "next: choose another place" in done.stderr.decode()


def test_more_new_cartridges_than_doors_are_refused_before_any_is_made(
    site: Site, tmp_path: Path
) -> None:
    site.home = tmp_path / "narrow"
    site.run("create-library", str(site.home), "--doors", "2", "--slots", "6", "--capacity", "64M",
             "--cartridges", "2")  # fmt: skip
    before = site.on_library("inventory")
    said = site.on_library("import", "--blank", "3", code=ExitCode.LIBRARY)
    assert "3 cartridges do not fit" in said
    assert "next: put in 2 at a time" in said
    assert site.on_library("inventory") == before
    assert len(list((site.home / "cartridges").iterdir())) == 3
    site.on_library("import", "--blank", "2", "--cartridge", "A00001L8", code=ExitCode.LIBRARY)
    site.on_library("import", "--blank", "1", "--cartridge", "NONE01L8", code=ExitCode.NO_PATH)
    assert len(list((site.home / "cartridges").iterdir())) == 3
    site.on_library("import", "--blank", "2")
    assert len(list((site.home / "cartridges").iterdir())) == 5
