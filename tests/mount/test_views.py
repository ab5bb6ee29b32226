"""`.snapshots`: reachable everywhere, listed nowhere, right, read-only, and patient."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.trees import assert_same, copy_of
from tests.volume import Volume


def test_snapshots_are_in_every_directory_and_in_no_listing(volume: Volume) -> None:
    deep = volume.tree / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"f")
    at = volume.sync()
    here = volume.tree
    for name in ("", "a", "b", "c"):
        here = here / name
        assert ".snapshots" not in os.listdir(here)
        assert stat.S_ISDIR((here / ".snapshots").stat().st_mode)
        assert sorted(os.listdir(here / ".snapshots" / f"@lsn:{at}")) == sorted(os.listdir(here))
    found = subprocess.run(["find", volume.tree], check=True, capture_output=True, text=True)
    assert ".snapshots" not in found.stdout
    subprocess.run(["rm", "-r", volume.tree / "a"], check=True)


def test_moments_by_every_name_that_people_use(volume: Volume) -> None:
    f = volume.tree / "f"
    f.write_bytes(b"first")
    volume.call("mark", name="done")
    at = volume.sync()
    time.sleep(1.1)  # so that a whole second lies between: it is named below
    between = time.time()
    f.write_bytes(b"second")
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between)) + "Z"
    for name in (f"@lsn:{at}", "@mark:done", f"@{moment}"):
        assert (volume.tree / ".snapshots" / name / "f").read_bytes() == b"first", name
    for name in ("@now", "@-0s"):
        assert (volume.tree / ".snapshots" / name / "f").read_bytes() == b"second", name


@pytest.mark.parametrize(
    "name", ["@-10m", "@2100-01-01T00:00Z", "@lsn:999999", "@mark:none", "@x?"]
)
def test_moments_that_never_were_do_not_exist_and_the_log_says_why(
    volume: Volume, name: str
) -> None:
    with pytest.raises(FileNotFoundError):
        os.stat(volume.tree / ".snapshots" / name)
    assert "snapshots" not in os.listdir(volume.tree)
    reasons = [line for line in volume.log_text().splitlines() if "mounted at" not in line]
    assert reasons, "the log says nothing"


def test_names_that_are_no_moments_do_not_exist(volume: Volume) -> None:
    for name in ("f", "15:00", ".git", ".snapshots"):
        assert not (volume.tree / ".snapshots" / name).exists()


def test_marks_are_listed_at_the_root(volume: Volume) -> None:
    (volume.tree / "f").write_bytes(b"f")
    volume.call("mark", name="release")
    volume.sync()
    listed = os.listdir(volume.tree / ".snapshots")
    assert "@mark:release" in listed
    for name in listed:
        assert (volume.tree / ".snapshots" / name).is_dir()


def test_every_change_in_the_past_is_refused(volume: Volume) -> None:
    (volume.tree / "d").mkdir()
    (volume.tree / "f").write_bytes(b"f")
    os.setxattr(volume.tree / "f", "user.x", b"x")
    before = copy_of(volume.tree)
    at = volume.sync()
    past = volume.past(at)
    calls: list[Callable[[], object]] = [
        lambda: os.open(past / "f", os.O_WRONLY),
        lambda: os.open(past / "f", os.O_RDWR | os.O_APPEND),
        lambda: os.open(past / "f", os.O_RDONLY | os.O_TRUNC),
        lambda: os.open(past / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.truncate(past / "f", 0),
        lambda: os.mkdir(past / "new"),
        lambda: os.mknod(past / "new"),
        lambda: os.symlink("x", past / "new"),
        lambda: os.unlink(past / "f"),
        lambda: os.rmdir(past / "d"),
        lambda: os.rename(past / "f", past / "g"),
        lambda: os.chmod(past / "f", 0o777),
        lambda: os.chown(past / "f", 1, 1),
        lambda: os.utime(past / "f"),
        lambda: os.setxattr(past / "f", "user.x", b"y"),
        lambda: os.removexattr(past / "f", "user.x"),
        lambda: os.link(past / "f", past / "g"),
        lambda: os.mkdir(volume.tree / ".snapshots" / "@now" / "new"),
        lambda: os.mkdir(volume.tree / ".snapshots" / "new"),
        lambda: os.rmdir(volume.tree / ".snapshots" / f"@lsn:{at}"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(OSError) as caught:  # noqa: PT011  (the number is checked below)
            call()
        assert caught.value.errno in (errno.EROFS, errno.EXDEV), number
    for call in (
        lambda: os.rename(past / "f", volume.tree / "g"),
        lambda: os.rename(volume.tree / "f", past / "g"),
        lambda: os.link(past / "f", volume.tree / "g"),
        lambda: os.mkdir(volume.tree / "d" / ".snapshots"),
        lambda: os.rename(volume.tree / "d", volume.tree / ".snapshots"),
        lambda: os.rmdir(volume.tree / ".snapshots"),
    ):
        with pytest.raises(OSError, match=r"Read-only|cross-device|not permitted|exists"):
            call()
    assert_same(volume.past(at), before)
    assert_same(volume.tree, before)


def test_inode_numbers_are_unique_for_each_view(volume: Volume) -> None:
    (volume.tree / "f").write_bytes(b"1")
    os.link(volume.tree / "f", volume.tree / "g")
    one = volume.sync()
    (volume.tree / "f").write_bytes(b"2")
    two = volume.sync()
    first, second = volume.past(one), volume.past(two)
    assert (first / "f").stat().st_ino == (first / "g").stat().st_ino
    numbers = {
        (place / name).stat().st_ino for place in (volume.tree, first, second) for name in ("", "f")
    }
    assert len(numbers) == 6


def test_a_renamed_directory_shows_its_own_past(volume: Volume) -> None:
    (volume.tree / "old").mkdir()
    (volume.tree / "old" / "f").write_bytes(b"then")
    then = volume.sync()
    os.rename(volume.tree / "old", volume.tree / "new")
    (volume.tree / "new" / "f").write_bytes(b"now")
    assert (volume.tree / "new" / ".snapshots" / f"@lsn:{then}" / "f").read_bytes() == b"then"
    assert (volume.past(then) / "old" / "f").read_bytes() == b"then"


def test_a_directory_made_again_shows_what_stood_there(volume: Volume) -> None:
    (volume.tree / "d").mkdir()
    (volume.tree / "d" / "f").write_bytes(b"then")
    then = volume.sync()
    os.unlink(volume.tree / "d" / "f")
    os.rmdir(volume.tree / "d")
    between = volume.sync()
    (volume.tree / "d").mkdir()
    assert (volume.tree / "d" / ".snapshots" / f"@lsn:{then}" / "f").read_bytes() == b"then"
    with pytest.raises(FileNotFoundError):
        os.listdir(volume.tree / "d" / ".snapshots" / f"@lsn:{between}")


def test_a_view_says_which_point_it_is(volume: Volume) -> None:
    (volume.tree / "d").mkdir()
    at = volume.sync()
    for place in (volume.past(at), volume.tree / "d" / ".snapshots" / f"@lsn:{at}"):
        point = os.getxattr(place, "user.cdpfs.point").decode()
        assert f"lsn={at} " in point
        assert "grade=" in point
        assert "user.cdpfs.point" in os.listxattr(place)


def test_reading_through_an_open_view_goes_on_while_files_change(volume: Volume) -> None:
    data = os.urandom(3 << 20)
    (volume.tree / "f").write_bytes(data)
    at = volume.sync()
    with (volume.past(at) / "f").open("rb") as past:
        first = past.read(1 << 20)
        os.unlink(volume.tree / "f")
        (volume.tree / "f").write_bytes(b"other")
        volume.sync()
        assert first + past.read() == data


def test_programs_can_be_mapped_from_the_past(volume: Volume) -> None:
    program = volume.tree / "program"
    program.write_bytes(Path(os.path.realpath("/bin/true")).read_bytes())
    program.chmod(0o755)
    at = volume.sync()
    program.unlink()
    assert subprocess.run([volume.past(at) / "program"], check=False).returncode == 0


# --- a late or lost indexer ---------------------------------------------------------------------


def _reader(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"print(open({str(path)!r}).read(), end='')"], stdout=subprocess.PIPE
    )


def test_a_view_waits_for_an_indexer_that_lags(volume: Volume) -> None:
    (volume.tree / "f").write_bytes(b"first")
    lsn = volume.sync()
    pid = volume.indexer_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        (volume.tree / "f").write_bytes(b"second")
        appended = volume.call("status")["lsn"]
        assert appended > lsn
        reader = _reader(volume.tree / ".snapshots" / f"@lsn:{appended}" / "f")
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(0.5)
        # The mount goes on meanwhile.
        (volume.tree / "g").write_bytes(b"goes on")
        assert (volume.tree / "f").read_bytes() == b"second"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert reader.communicate()[0] == b"second"
    assert reader.returncode == 0


def test_a_view_is_right_after_the_indexer_was_killed(volume: Volume) -> None:
    lsns = []
    for number in range(3):
        (volume.tree / "f").write_bytes(b"%d" % number)
        pid = volume.indexer_pid()
        os.kill(pid, signal.SIGKILL)
        (volume.tree / "g").write_bytes(b"g%d" % number)
        lsns.append(volume.sync())
    for number, lsn in enumerate(lsns):
        assert (volume.past(lsn) / "f").read_bytes() == b"%d" % number
        assert (volume.past(lsn) / "g").read_bytes() == b"g%d" % number


def test_an_interrupted_reader_of_a_waiting_view_can_be_killed(volume: Volume) -> None:
    (volume.tree / "f").write_bytes(b"first")
    volume.sync()
    pid = volume.indexer_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        (volume.tree / "f").write_bytes(b"second")
        reader = _reader(volume.tree / ".snapshots" / "@now" / "f")
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(0.3)
        reader.kill()
        (volume.tree / "g").write_bytes(b"goes on")
    finally:
        os.kill(pid, signal.SIGCONT)
    reader.communicate()
    assert (volume.past(volume.sync()) / "g").read_bytes() == b"goes on"
