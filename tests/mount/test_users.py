"""Several users on one mount: ownership, permissions, ACLs and privileges are those of ext4.

Most tests do the same to a mount and to a plain directory, as the same users, and compare both the
outcomes and the trees. The past has the permissions of its time.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.mount.changes import CAPABILITY, CAPABILITY_VALUE, umask
from tests.mount.trees import assert_same, copy_of
from tests.mount.users import ANN, BEN, ROOT, TEAM, User, acting_as, needs_root
from tests.volume import SOURCE, Volume

pytestmark = needs_root

Deed = Callable[[Path], object]


class Pair:
    """A mount and a plain directory, both open to everyone."""

    def __init__(self, base: Path) -> None:
        self.volume = Volume(base)
        self.plain = base / "plain"
        self.plain.mkdir()
        for root in (self.volume.tree, self.plain):
            os.chmod(root, 0o777)
        self.volume.mount()

    def do(self, user: User, deed: Deed, *, mask: int = 0o022) -> object:
        """Do the same in both trees, with the same outcome, which is returned; compare them."""
        found = []
        for root in (self.volume.tree, self.plain):
            try:
                with acting_as(user), umask(mask):
                    found.append(("done", deed(root)))
            except OSError as error:
                found.append(("refused", errno.errorcode[error.errno or 0]))
        assert found[0] == found[1], "mount, plain directory"
        assert_same(self.volume.tree, self.plain, times=False)
        return found[0][1]

    def check_past(self) -> None:
        """The view of now is the tree of now."""
        at = self.volume.sync()
        assert_same(self.volume.past(at), copy_of(self.volume.tree))


@pytest.fixture
def open_base() -> Iterator[Path]:
    """A folder that everyone may enter."""
    base = Path(tempfile.mkdtemp(prefix="cdpfs-users-"))
    os.chmod(base, 0o755)
    try:
        yield base
    finally:
        shutil.rmtree(base)


@pytest.fixture
def pair(open_base: Path) -> Iterator[Pair]:
    """See `Pair`; its last state is compared with the view of it."""
    made = Pair(open_base)
    try:
        yield made
        made.check_past()
    finally:
        made.volume.close()
    assert " ERROR " not in made.volume.log_text(), made.volume.log_text()


def _write(path: Path, data: bytes, flags: int = 0) -> int:
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def _new(path: Path, mode: int = 0o666) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        return os.write(fd, b"new")
    finally:
        os.close(fd)


# --- what is created ----------------------------------------------------------------------------


def _one_of_each(name: str, root: Path) -> None:
    os.mkdir(root / name)
    _new(root / f"{name}.f")
    os.mkfifo(root / f"{name}.p")
    os.symlink("x", root / f"{name}.l")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0, 0o777])
def test_what_users_create_is_theirs_and_keeps_to_their_umask(pair: Pair, mask: int) -> None:
    for user, name in ((ANN, "ann"), (BEN, "ben"), (ROOT, "root")):
        pair.do(user, partial(_one_of_each, name), mask=mask)
        status = (pair.volume.tree / f"{name}.f").stat()
        assert (status.st_uid, status.st_gid) == (user.uid, user.gid)
        assert stat.S_IMODE(status.st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("user", [ANN, BEN, ROOT])
@pytest.mark.parametrize("mode", [0o2777, 0o2755, 0o6777, 0o644])
def test_setgid_directories_pass_their_group_on(pair: Pair, user: User, mode: int) -> None:
    def prepare(root: Path) -> None:
        os.mkdir(root / "team")
        os.chown(root / "team", ANN.uid, TEAM)
        os.chmod(root / "team", 0o2777)

    pair.do(ROOT, prepare)
    pair.do(user, lambda root: _new(root / "team" / "f", mode))
    pair.do(user, lambda root: os.mkdir(root / "team" / "d", mode))
    pair.do(user, lambda root: os.mknod(root / "team" / "n", mode | stat.S_IFREG))
    pair.do(user, lambda root: os.mkfifo(root / "team" / "p", mode))
    pair.do(user, lambda root: os.symlink("x", root / "team" / "l"))
    pair.do(user, lambda root: _new(root / "team" / "d" / "inner"))
    assert (pair.volume.tree / "team" / "f").stat().st_gid == TEAM


def test_sticky_directories_protect_from_other_users(pair: Pair) -> None:
    pair.do(ROOT, lambda root: os.chmod(root, 0o1777))
    pair.do(ANN, lambda root: _new(root / "ann"))
    pair.do(BEN, lambda root: _new(root / "ben"))
    assert pair.do(BEN, lambda root: os.unlink(root / "ann")) == "EPERM"
    assert pair.do(BEN, lambda root: os.rename(root / "ann", root / "x")) == "EPERM"
    assert pair.do(BEN, lambda root: os.rename(root / "ben", root / "ann")) == "EPERM"
    assert pair.do(ANN, lambda root: os.rename(root / "ann", root / "x")) is None
    assert pair.do(ANN, lambda root: os.unlink(root / "x")) is None


# --- permissions --------------------------------------------------------------------------------


def test_strangers_are_refused_as_on_the_file_system_beneath(pair: Pair) -> None:
    deeds: list[Deed] = [
        lambda root: (root / "private" / "f").read_bytes(),
        lambda root: (root / "f").read_bytes(),
        lambda root: _write(root / "f", b"x"),
        lambda root: _write(root / "f", b"", os.O_TRUNC),
        lambda root: os.truncate(root / "f", 0),
        lambda root: os.chmod(root / "f", 0o777),
        lambda root: os.chown(root / "f", BEN.uid, -1),
        lambda root: os.chown(root / "f", -1, BEN.gid),
        lambda root: os.utime(root / "f"),
        lambda root: os.utime(root / "f", ns=(1, 2)),
        lambda root: os.setxattr(root / "f", "user.x", b""),
        lambda root: os.getxattr(root / "f", "user.a"),
        lambda root: os.setxattr(root / "open", "trusted.x", b""),
        lambda root: os.listdir(root / "private"),
        lambda root: os.mkdir(root / "private" / "d"),
        lambda root: os.mkdir(root / "readable" / "d"),
        lambda root: os.unlink(root / "readable" / "f"),
        lambda root: os.rename(root / "readable" / "f", root / "stolen"),
        lambda root: os.rename(root / "readable", root / "moved"),
        lambda root: os.rename(root / "open", root / "readable" / "put"),
        lambda root: os.link(root / "f", root / "linked"),
        lambda root: os.access(root / "f", os.R_OK, effective_ids=True),
        lambda root: os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    ]

    def prepare(root: Path) -> None:
        for name, mode in (("private", 0o700), ("readable", 0o755)):
            os.mkdir(root / name, 0o755)
            (root / name / "f").write_bytes(b"f")
            os.chmod(root / name, mode)
        (root / "f").write_bytes(b"secret")
        (root / "open").write_bytes(b"open")
        os.setxattr(root / "f", "user.a", b"a")
        os.chmod(root / "f", 0o600)
        os.chmod(root / "open", 0o666)

    pair.do(ANN, prepare)
    outcomes = [pair.do(BEN, deed) for deed in deeds]
    assert outcomes.count("EACCES") + outcomes.count("EPERM") >= 20
    for deed in deeds:
        pair.do(ANN, deed)


def test_supplementary_groups_count(pair: Pair) -> None:
    def prepare(root: Path) -> None:
        (root / "shared").write_bytes(b"for the team")
        os.chown(root / "shared", 0, TEAM)
        os.chmod(root / "shared", 0o660)
        os.mkdir(root / "room")
        os.chown(root / "room", 0, TEAM)
        os.chmod(root / "room", 0o770)

    pair.do(ROOT, prepare)
    assert pair.do(ANN, lambda root: (root / "shared").read_bytes()) == b"for the team"
    assert pair.do(BEN, lambda root: (root / "shared").read_bytes()) == "EACCES"
    assert pair.do(ANN, lambda root: _new(root / "room" / "f")) == 3
    assert pair.do(BEN, lambda root: _new(root / "room" / "g")) == "EACCES"
    # Owners may give files to groups that they are in.
    assert pair.do(ANN, lambda root: os.chown(root / "room" / "f", -1, TEAM)) is None
    assert pair.do(ANN, lambda root: os.chown(root / "room" / "f", -1, BEN.gid)) == "EPERM"


# --- ACLs ---------------------------------------------------------------------------------------


def _setfacl(*words: str) -> Deed:
    *options, name = words

    def deed(root: Path) -> object:
        command = ["setfacl", *options, str(root / name)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    return deed


def _getfacl(name: str) -> Deed:
    def deed(root: Path) -> object:
        command = ["getfacl", "-cpn", str(root / name)]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    return deed


DEFAULTS = [
    f"d:u:{BEN.uid}:rwx",
    f"d:u:{BEN.uid}:rx,d:g:{TEAM}:rwx,d:m::r",
    "d:u::rw,d:g::r,d:o::-",
    "d:u::-,d:g::-,d:o::rwx",
]


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs the package acl")
@pytest.mark.parametrize("defaults", DEFAULTS)
@pytest.mark.parametrize("mask", [0o022, 0o077, 0])
def test_default_acls_are_inherited_instead_of_the_umask(
    pair: Pair, defaults: str, mask: int
) -> None:
    def deed(root: Path) -> None:
        folder = root / "d"
        _new(folder / "f")
        _new(folder / "mode", 0o640)
        os.mkdir(folder / "sub")
        os.mkdir(folder / "narrow", 0o700)
        os.mkfifo(folder / "p")
        os.mknod(folder / "n", stat.S_IFREG | 0o755)
        os.symlink("f", folder / "l")

    pair.do(ANN, lambda root: os.mkdir(root / "d"))
    assert pair.do(ANN, _setfacl("-m", defaults, "d")) == 0
    pair.do(ANN, deed, mask=mask)
    pair.do(ANN, lambda root: _new(root / "d" / "sub" / "inner"), mask=mask)
    pair.do(ROOT, _getfacl("d/f"))
    assert "default:" in str(pair.do(ROOT, _getfacl("d/sub")))
    pair.check_past()
    # Without the default again, it is the umask again.
    assert pair.do(ANN, _setfacl("-k", "d")) == 0
    pair.do(ANN, lambda root: _new(root / "d" / "after"), mask=mask)


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs the package acl")
def test_the_mode_and_the_mask_of_an_acl_are_one(pair: Pair) -> None:
    pair.do(ANN, lambda root: _new(root / "f", 0o640))
    assert pair.do(ANN, _setfacl("-m", f"u:{BEN.uid}:rw", "f")) == 0
    assert stat.S_IMODE((pair.volume.tree / "f").stat().st_mode) == 0o660
    assert pair.do(BEN, lambda root: _write(root / "f", b"may")) == 3
    pair.do(ANN, lambda root: os.chmod(root / "f", 0o600))
    assert "mask::---" in str(pair.do(ROOT, _getfacl("f")))
    assert pair.do(BEN, lambda root: _write(root / "f", b"may not")) == "EACCES"
    pair.check_past()
    assert pair.do(ANN, _setfacl("-m", "m::r", "f")) == 0
    assert pair.do(BEN, lambda root: (root / "f").read_bytes()) == b"may"
    assert pair.do(ANN, _setfacl("-m", "u::rwx,g::rx,o::x", "f")) == 0
    assert pair.do(ANN, _setfacl("-b", "f")) == 0
    assert pair.do(BEN, lambda root: (root / "f").read_bytes()) == "EACCES"
    # An ACL that says no more than a mode is stored as a mode.
    assert pair.do(ANN, _setfacl("-m", "u::rw,g::r,o::r", "f")) == 0
    assert os.listxattr(pair.volume.tree / "f") == []
    assert pair.do(BEN, _setfacl("-m", f"u:{BEN.uid}:rw", "f")) == 1


# --- privileges of files ------------------------------------------------------------------------


CHANGES: dict[str, Deed] = {
    "write": lambda root: _write(root / "f", b"x"),
    "truncate": lambda root: os.truncate(root / "f", 1),
    "open with truncation": lambda root: _write(root / "f", b"", os.O_TRUNC),
    "chgrp": lambda root: os.chown(root / "f", -1, TEAM),
    "chown to the same": lambda root: os.chown(root / "f", ANN.uid, TEAM),
    "chmod": lambda root: os.chmod(root / "f", 0o755),
    "touch": lambda root: os.utime(root / "f"),
}


# Of a setgid bit without group execution, which means nothing today, a FUSE daemon can't tell
# whether the kernel would take it away: that depends on the caller's supplementary groups.
@pytest.mark.parametrize("user", [ANN, BEN, ROOT])
@pytest.mark.parametrize("mode", [0o4777, 0o4766, 0o2777, 0o6777])
def test_set_id_bits_go_as_they_do_on_the_file_system_beneath(
    pair: Pair, user: User, mode: int
) -> None:
    def prepare(root: Path) -> None:
        _new(root / "f")
        os.chown(root / "f", ANN.uid, TEAM)
        os.chmod(root / "f", mode)

    for change in CHANGES.values():
        pair.do(ROOT, prepare)
        pair.do(user, change)
        pair.do(ROOT, lambda root: os.unlink(root / "f"))
    pair.do(ROOT, prepare)


@pytest.mark.parametrize("user", [ANN, ROOT])
def test_capabilities_go_when_a_file_is_changed(pair: Pair, user: User) -> None:
    def prepare(root: Path) -> None:
        _new(root / "f")
        os.chown(root / "f", ANN.uid, ANN.gid)
        os.setxattr(root / "f", CAPABILITY, CAPABILITY_VALUE)

    for name, change in CHANGES.items():
        pair.do(ROOT, prepare)
        pair.do(user, change)
        if name in ("write", "truncate"):
            assert CAPABILITY not in os.listxattr(pair.volume.tree / "f")
        pair.check_past()
        pair.do(ROOT, lambda root: os.unlink(root / "f"))
    pair.do(ROOT, prepare)


def test_capabilities_of_files_from_before_protection_go_too(open_base: Path) -> None:
    volume = Volume(open_base)
    try:
        (volume.backing / "f").write_bytes(b"old")
        os.setxattr(volume.backing / "f", CAPABILITY, CAPABILITY_VALUE)
        volume.mount()
        _write(volume.tree / "f", b"new")
        assert os.listxattr(volume.tree / "f") == []
        assert os.listxattr(volume.past(1) / "f") == [CAPABILITY]
    finally:
        volume.close()


# --- the past -----------------------------------------------------------------------------------


def test_views_keep_to_the_permissions_of_their_time(pair: Pair) -> None:
    volume = pair.volume
    pair.do(ANN, lambda root: _new(root / "f", 0o600))
    secret = volume.sync()
    pair.do(ANN, lambda root: os.chmod(root / "f", 0o644))
    public = volume.sync()
    pair.do(ANN, lambda root: os.chmod(root / "f", 0))
    pair.do(ANN, lambda root: os.chown(root / "f", -1, TEAM))
    with acting_as(BEN):
        with pytest.raises(PermissionError):
            (volume.past(secret) / "f").read_bytes()
        assert (volume.past(public) / "f").read_bytes() == b"new"
        with pytest.raises(PermissionError):
            (volume.past(volume_now(volume)) / "f").read_bytes()
    with acting_as(ANN):
        assert (volume.past(secret) / "f").read_bytes() == b"new"
    # What was read by one user and is in the kernel's cache now is still closed to another.
    with acting_as(BEN), pytest.raises(PermissionError):
        (volume.past(secret) / "f").read_bytes()


def volume_now(volume: Volume) -> int:
    """The newest LSN; asked as root, to whom the control socket belongs."""
    with as_root():
        return volume.sync()


@contextmanager
def as_root() -> Iterator[None]:
    """Root again, inside `acting_as`."""
    uid = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(uid)


def test_directories_that_were_closed_then_are_closed_in_the_past(pair: Pair) -> None:
    volume = pair.volume

    def prepare(root: Path) -> None:
        os.mkdir(root / "d", 0o700)
        _new(root / "d" / "f", 0o644)

    pair.do(ANN, prepare)
    closed = volume.sync()
    pair.do(ANN, lambda root: os.chmod(root / "d", 0o755))
    with acting_as(BEN):
        assert (volume.tree / "d" / "f").read_bytes() == b"new"
        for path in (
            volume.past(closed) / "d" / "f",
            volume.tree / "d/.snapshots" / f"@lsn:{closed}" / "f",
        ):
            with pytest.raises(PermissionError):
                path.read_bytes()
        with pytest.raises(PermissionError):
            os.listdir(volume.past(closed) / "d")


# --- an ordinary user's own volume ----------------------------------------------------------------


@pytest.fixture
def fuse_for_everyone() -> Iterator[None]:
    """/dev/fuse as distributions have it."""
    before = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    try:
        yield
    finally:
        os.chmod("/dev/fuse", before)


def _command_prefix(user: User) -> list[str]:
    """Run what follows as the user, even where the interpreter lies in somebody's closed home.

    There the process keeps the right to read, and nothing else, of what is root's.
    """
    command = ["setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"]
    for folder in Path(os.path.realpath(sys.executable)).parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return [
                *command,
                "--inh-caps",
                "+dac_read_search",
                "--ambient-caps",
                "+dac_read_search",
            ]
    return command


@pytest.mark.usefixtures("fuse_for_everyone")
def test_an_ordinary_user_protects_and_restores_his_own_files(open_base: Path) -> None:
    found = pwd.getpwnam("nobody")  # fusermount3 wants a name for the user
    someone = User(found.pw_uid, found.pw_gid)
    home = open_base / "home"
    (home / "docs").mkdir(parents=True)
    (home / "docs" / "old").write_bytes(b"from before")
    for path in (home, home / "docs", home / "docs" / "old"):
        os.chown(path, someone.uid, someone.gid)
    environment = dict(
        os.environ, HOME=str(home), CDPFS_HOME=str(home / "cdpfs"), PYTHONPATH=str(SOURCE)
    )

    def run(*command: str) -> str:
        done = subprocess.run(
            [*_command_prefix(someone), *command],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cdpfs(*words: str) -> str:
        return run(sys.executable, "-m", "console", *words)

    cdpfs("protect", "docs")
    try:
        run("sh", "-c", "printf new > docs/new; cat docs/old")
        assert run("sh", "-c", "printf spoiled > docs/old; cat docs/old") == "spoiled"
        assert run("cat", "docs/.snapshots/@lsn:1/old") == "from before"
        assert run("stat", "-c", "%u:%g", "docs/new") == f"{someone.uid}:{someone.gid}\n"
        cdpfs("restore", "docs/old", "--at", "@lsn:1")
        assert run("cat", "docs/old") == "from before"
    finally:
        cdpfs("umount", "docs")
    assert sorted(os.listdir(home / "docs")) == ["new", "old"]
