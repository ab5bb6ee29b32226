"""Everyday programs inside the mount: version control, archivers, copiers, editors, mail, logs.

Each does the same on a plain directory; results and trees must be equal, and a moment in the
middle must look afterwards as it did then.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.arena import Arena, Pause, open_arena
from tests.mount.fingerprint import assert_equal, fingerprint
from tests.mount.peers import environment, popen, run

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An empty pair of places."""
    with open_arena() as made:
        yield made


# --- git -----------------------------------------------------------------------------------------

GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
}


class _Repository:
    def __init__(self, place: Path) -> None:
        self.place = place

    def git(self, *arguments: str) -> str:
        return run("git", *arguments, cwd=self.place, env=environment(**GIT))

    def commit(self, number: int) -> None:
        """Change every file a little, remove one and add one."""
        for index in range(number, 40 + number):
            folder = self.place / f"dir{index % 5}"
            folder.mkdir(exist_ok=True)
            lines = [f"line {line} of {index} at {line % (number + 1)}" for line in range(60)]
            (folder / f"file{index}.txt").write_text("\n".join(lines))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"commit {number}")
        (self.place / f"dir{number % 5}" / f"file{number}.txt").unlink()


def test_git_works_as_on_a_plain_directory(arena: Arena) -> None:
    def work(place: Path, pause: Pause) -> list[str]:
        repository = _Repository(place / "project")
        repository.place.mkdir()
        git = repository.git
        git("init", "-q", "-b", "main")
        git("config", "pack.threads", "1")
        for number in range(4):
            repository.commit(number)
        git("checkout", "-q", "-f", "-b", "side", "HEAD~2")
        (repository.place / "side.txt").write_text("side")
        git("add", "-A")
        git("commit", "-q", "-m", "aside")
        pause()
        git("checkout", "-q", "-f", "main")
        git("merge", "-q", "--no-edit", "side")
        git("gc", "-q", "--prune=now")
        git("clone", "-q", ".", "../clone")
        pause()
        git("rm", "-q", "-r", "dir1")
        git("commit", "-q", "-m", "removed")
        return [
            git("fsck", "--full", "--strict"),
            git("-C", "../clone", "fsck", "--full", "--strict"),
            git("status", "--porcelain"),
            git("ls-files", "-s"),
            git("log", "--graph", "--format=%H %s", "--all"),
        ]

    # The index has the files' ctimes and inodes; a clone notes where it came from.
    odd = (b"/.git/index", b"clone/.git/config", b"clone/.git/logs/HEAD")
    arena.compare(work, varies=lambda path: path.endswith(odd) or b"clone/.git/logs" in path)


# --- archivers and copiers -----------------------------------------------------------------------


def _make_varied_tree(place: Path) -> None:
    """One of everything that a file system can hold (devices and the like only as root)."""
    place.mkdir()
    rng = random.Random(2)
    for depth in ("a", "a/b", "a/b/c", "a/" + "d" * 200):
        (place / depth).mkdir()
        for number in range(6):
            (place / depth / f"file{number}").write_bytes(rng.randbytes(number * 7001))
    (place / "exec").write_text("#!/bin/sh\n")
    (place / "exec").chmod(0o4755)
    (place / "a" / "b").chmod(0o2775)
    (place / "private").write_text("x")
    (place / "private").chmod(0o600)
    os.link(place / "a" / "file3", place / "a" / "b" / "c" / "hard link")
    os.link(place / "a" / "file3", place / "zz link")
    os.symlink("a/b/nowhere", place / "dangling")
    os.symlink("../" * 20 + "x" * 120, place / "long link")
    os.mkfifo(place / "fifo", 0o640)
    (place / os.fsdecode(b"not utf-8 \xff\xfe")).write_text("name")
    (place / ("n" * 255)).write_text("long")
    _make_sparse(place / "sparse")
    os.setxattr(place / "a" / "file1", "user.note", b"\0binary\xff")
    os.setxattr(place / "a" / "b", "user.of.directory", b"v" * 1000)
    run("setfacl", "-m", "u:1234:rw-,d:g:77:r-x", place / "a" / "b")
    run("setfacl", "-m", "u:1234:rw-", place / "a" / "file2")
    if IS_ROOT:
        os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(place / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 99))
        os.chown(place / "a" / "file4", 1234, 77)
        os.lchown(place / "dangling", 1234, 77)
        os.setxattr(place / "a" / "file5", "trusted.cdpfs-test", b"for root")
        run("setcap", "cap_net_raw+ep", place / "a" / "file0")
    for number, (folder, names, files) in enumerate(os.walk(place, topdown=False)):
        for name in (*names, *files, "."):
            moment = 1_600_000_000_123_456_789 + number * 10**9 + len(name)
            os.utime(os.path.join(folder, name), ns=(moment, moment), follow_symlinks=False)


def _make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.seek(5 << 20)
        file.write(b"island" * 1000)
        file.truncate(9 << 20)


TAR = ("--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner", "--sort=name")


def test_tar_unpacks_and_packs_everything(arena: Arena) -> None:
    _make_varied_tree(arena.outside / "source")
    wanted = fingerprint(arena.outside / "source")
    archive = arena.outside / "in.tar"
    run("tar", *TAR, "-C", arena.outside, "-cf", archive, "source")

    def work(place: Path, pause: Pause) -> None:
        run("tar", *TAR, "-C", place, "-xpf", archive)
        pause()
        packed, unpacked = arena.outside / "out.tar", arena.outside / "unpacked"
        run("tar", *TAR, "-C", place, "-cf", packed, "source")
        unpacked.mkdir()
        run("tar", *TAR, "-C", unpacked, "-xpf", packed)
        assert_equal(fingerprint(unpacked / "source"), wanted)
        shutil.rmtree(unpacked)
        shutil.rmtree(place / "source" / "a")
        assert os.stat(place / "source" / "sparse").st_blocks < 4096

    arena.compare(work, varies=lambda path: path == b"")


def test_tar_packs_a_past_moment(arena: Arena) -> None:
    tree = arena.volume.tree
    _make_varied_tree(tree / "source")
    wanted = fingerprint(tree / "source")
    lsn = arena.pause()
    shutil.rmtree(tree / "source")
    packed = arena.outside / "past.tar"
    run("tar", *TAR, "-C", arena.volume.past(lsn), "-cf", packed, "source")
    run("tar", *TAR, "-C", arena.outside, "-xpf", packed)
    assert_equal(fingerprint(arena.outside / "source"), wanted)


def test_rsync_finds_no_difference_in_either_direction(arena: Arena) -> None:
    source = arena.outside / "source"
    _make_varied_tree(source)
    options = ("-aHAXS" if IS_ROOT else "-rlptHAXS", "--checksum", "--numeric-ids", "--delete")

    def differences(one: Path, other: Path) -> str:
        return run("rsync", *options, "--dry-run", "--itemize-changes", f"{one}/", f"{other}/")

    def work(place: Path, pause: Pause) -> None:
        copy = place / "copy"
        run("rsync", *options, f"{source}/", f"{copy}/")
        assert differences(source, copy) == ""
        assert differences(copy, source) == ""
        pause()
        (copy / "a" / "file5").write_text("changed")
        (copy / "a" / "b" / "extra").write_text("to be deleted")
        shutil.rmtree(copy / "a" / "b" / "c")
        pause()
        run("rsync", *options, "--inplace", "--no-S", f"{source}/", f"{copy}/")
        back = arena.outside / f"back from {place.name}"
        run("rsync", *options, f"{copy}/", f"{back}/")
        assert differences(source, back) == ""
        assert_equal(fingerprint(back), fingerprint(source))

    arena.compare(work, times=True, varies=lambda path: path == b"")


def test_cp_copies_into_within_and_out_of_the_mount(arena: Arena) -> None:
    source = arena.outside / "source"
    _make_varied_tree(source)
    wanted = fingerprint(source)

    def work(place: Path, pause: Pause) -> None:
        run("cp", "-a", source, place / "one")
        pause()
        run("cp", "-a", "--sparse=always", place / "one", place / "two")
        run("cp", "-al", place / "two", place / "linked")
        run("cp", "-a", place / "two", arena.outside / f"out of {place.name}")
        assert_equal(fingerprint(place / "one"), wanted)
        assert_equal(fingerprint(arena.outside / f"out of {place.name}"), wanted)
        run("mv", place / "one", place / "moved")
        run("rm", "-rf", place / "linked")

    arena.compare(work, varies=lambda path: path == b"")


# --- editors -------------------------------------------------------------------------------------


def test_editors_that_rename_over_the_old_file(arena: Arena) -> None:
    def work(place: Path, pause: Pause) -> list[str]:
        text = place / "letter.txt"
        text.write_text("".join(f"dear {number}\n" for number in range(500)))
        os.link(text, place / "draft.txt")
        run("sed", "-i.bak", "-e", "s/dear/Dear/", text)
        pause()
        run("sed", "-i", "-e", "/7$/d", text)
        run("perl", "-pi", "-e", "s/Dear/My dear/", text)
        run("sort", "-r", "-o", text, text)
        pause()
        run("truncate", "-s", "1000", text)
        return [path.read_text() for path in sorted(place.iterdir())]

    arena.compare(work)


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
@pytest.mark.parametrize("copies", ["yes", "no"])
def test_vim_saves_with_its_backup_and_swap_files(arena: Arena, copies: str) -> None:
    def work(place: Path, pause: Pause) -> str:
        text = place / "notes.txt"
        text.write_text("alpha\nbeta\n")
        settings = f"set backup writebackup backupcopy={copies} backupdir=. directory=. fsync"
        for word in ("gamma", "delta"):
            commands = ("-c", settings, "-c", f"normal Go{word}", "-c", "wq")
            run("vim", "-u", "NONE", "-i", "NONE", "-es", *commands, text, cwd=place)
            pause()
        return text.read_text()

    assert arena.compare(work).split() == ["alpha", "beta", "gamma", "delta"]


# --- mail and logs -------------------------------------------------------------------------------

DELIVER = """
import mailbox, sys
place, who = sys.argv[1:]
box = mailbox.Maildir(place, create=False)
for number in range(25):
    box.add(f"From: {who}\\nSubject: {number}\\n\\nbody of {number} from {who}\\n" * 3)
"""

SORT_MAIL = """
import mailbox, sys
box = mailbox.Maildir(sys.argv[1], create=False)
for key, message in box.iteritems():
    message.set_subdir("cur")
    message.add_flag("S" if int(message["Subject"].split()[0]) % 2 else "F")
    box[key] = message
    if message["Subject"].split()[0] == "3":
        box.remove(key)
"""


def _side_by_side(script: str, place: Path, names: list[str]) -> None:
    """The same script as several processes at once."""
    started = [popen([sys.executable, "-c", script, place, name]) for name in names]
    assert [process.wait() for process in started] == [0] * len(started)


def test_mail_is_delivered_by_several_processes_at_once(arena: Arena) -> None:
    def work(place: Path, pause: Pause) -> list[tuple[str, bytes]]:
        box = place / "Maildir"
        for folder in ("", "tmp", "new", "cur"):
            (box / folder).mkdir()
        _side_by_side(DELIVER, box, ["ann", "bob", "eve"])
        pause()
        run(sys.executable, "-c", SORT_MAIL, box)
        assert not list((box / "tmp").iterdir())
        mails = [*(box / "new").iterdir(), *(box / "cur").iterdir()]
        return sorted((path.name.partition(":")[2], path.read_bytes()) for path in mails)

    # Names of mails are unique on purpose: the trees as such can't be equal.
    wanted = work(arena.plain, lambda: None)
    assert work(arena.volume.tree, lambda: (arena.pause(), None)[1]) == wanted
    assert len(wanted) == 72
    arena.check_moments()
    arena.check_after_remount()


APPEND = """
import os, sys
place, who = sys.argv[1:]
for number in range(200):
    fd = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{who} {number} {'=' * (number % 90)}\\n".encode())
    os.close(fd)
"""


def test_a_log_that_several_processes_append_to_is_rotated(arena: Arena) -> None:
    def work(place: Path, pause: Pause) -> list[list[str]]:
        log = place / "events.log"
        _side_by_side(APPEND, log, ["one", "two", "three"])
        pause()
        run("gzip", "-n", "-k", log)
        run("gunzip", "-t", log.with_suffix(".log.gz"))
        log.rename(place / "events.log.1")
        _side_by_side(APPEND, log, ["four", "five"])
        shutil.copyfile(log, place / "events.log.2")
        os.truncate(log, 0)  # as logrotate's copytruncate does it
        _side_by_side(APPEND, log, ["six"])
        names = ("events.log", "events.log.1", "events.log.2")
        return [sorted((place / name).read_text().splitlines()) for name in names]

    # Whose line comes first is up to the scheduler.
    result = arena.compare(work, varies=lambda path: path.startswith(b"events.log"))
    assert [len(lines) for lines in result] == [200, 600, 400]
