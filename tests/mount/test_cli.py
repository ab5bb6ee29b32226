"""The command line against real mounts: each command as a person or a script uses it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.exit_codes import ExitCode
from tests.commandline import RING, ProtectedTree

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ProtectedTree]:
    """A directory with a few files, protected."""
    made = ProtectedTree(tmp_path)
    (made.tree / "plan.txt").write_text("first\n")
    (made.tree / "sub").mkdir()
    (made.tree / "sub" / "deep.txt").write_text("deep\n")
    try:
        made.run("protect", str(made.tree), *RING)
        yield made
        if made.is_mounted:
            made.run("umount", str(made.tree))
    finally:
        made.end()


def test_protect_says_what_is_true_and_changes_nothing(volume: ProtectedTree) -> None:
    assert volume.is_mounted
    assert sorted(os.listdir(volume.tree)) == ["plan.txt", "sub"]
    assert (volume.tree / "plan.txt").read_text() == "first\n"
    status = volume.json("status", str(volume.tree))
    assert status["state"] == "mounted"
    assert status["pids"].keys() == {"fsd", "indexer"}
    assert status["mount_point"] == str(volume.tree)
    assert status["alarms"] == []


def test_a_volume_is_named_by_any_path_inside_it(volume: ProtectedTree) -> None:
    status = json.loads(volume.run("status", "--json", cwd=volume.tree / "sub").stdout)
    assert status["directory"] == str(volume.tree)
    assert volume.run("cat", "deep.txt", "--at", "@now", cwd=volume.tree / "sub").stdout == (
        b"deep\n"
    )


def test_a_file_is_read_and_restored_as_it_was(volume: ProtectedTree) -> None:
    before = volume.now()
    plan = volume.tree / "plan.txt"
    plan.write_text("garbage over it\n")
    assert volume.run("cat", str(plan), "--at", before).stdout == b"first\n"
    report = volume.json("restore", str(plan), "--at", before)
    assert report["ok"]
    assert plan.read_text() == "first\n"
    # What was done in place can be taken back, as the report says.
    volume.run(*report["undo"].split()[1:])
    assert plan.read_text() == "garbage over it\n"


def test_a_tree_restored_in_place_is_what_it_was(volume: ProtectedTree) -> None:
    before = volume.now()
    shutil.rmtree(volume.tree / "sub")
    (volume.tree / "new").write_text("came later")
    volume.run("restore", str(volume.tree), "--at", before, "--keep-new")
    assert sorted(os.listdir(volume.tree)) == ["new", "plan.txt", "sub"]
    volume.run("restore", str(volume.tree), "--at", before)
    assert sorted(os.listdir(volume.tree)) == ["plan.txt", "sub"]
    assert (volume.tree / "sub" / "deep.txt").read_text() == "deep\n"


def test_a_restore_elsewhere_overwrites_only_when_told_to(volume: ProtectedTree) -> None:
    before = volume.now()
    place = volume.top / "out"
    volume.run("restore", str(volume.tree), "--at", before, "--to", str(place))
    assert (place / "sub" / "deep.txt").read_text() == "deep\n"
    (place / "plan.txt").write_text("mine")
    again = ("restore", volume.path("plan.txt"), "--at", before, "--to", str(place))
    volume.run(*again, code=ExitCode.FAILURE)
    assert (place / "plan.txt").read_text() == "mine"
    volume.run(*again, "--overwrite")
    assert (place / "plan.txt").read_text() == "first\n"


def test_undo_takes_back_what_happened_since(volume: ProtectedTree) -> None:
    before = volume.now()
    (volume.tree / "sub" / "deep.txt").rename(volume.tree / "sub" / "renamed.txt")
    (volume.tree / "sub" / "added").write_text("x")
    volume.run("undo", volume.path("sub"), "--since", before)
    assert os.listdir(volume.tree / "sub") == ["deep.txt"]


def test_diff_shows_what_changed(volume: ProtectedTree) -> None:
    before = volume.now()
    (volume.tree / "plan.txt").write_text("second, longer\n")
    (volume.tree / "sub" / "deep.txt").unlink()
    (volume.tree / "new").write_text("x")
    changes = {
        c["path"]: c["change"] for c in volume.json("diff", str(volume.tree), "--from", before)
    }
    assert changes["plan.txt"] == "modified"
    assert changes["sub/deep.txt"] == "removed"
    assert changes["new"] == "added"
    lines = volume.run("diff", str(volume.tree), "--from", before).stdout.decode().splitlines()
    assert [line[:1] for line in lines] == ["A", "M", "D"]


def test_history_says_who_wrote(volume: ProtectedTree) -> None:
    with open(volume.tree / "plan.txt", "a") as file:
        file.write("more\n")
    (*_older, newest) = volume.json("history", volume.path("plan.txt"))
    assert newest["uid"] == os.getuid()
    assert newest["pid"] == os.getpid()


def test_deleted_files_are_found_and_come_back(volume: ProtectedTree) -> None:
    (volume.tree / "sub" / "deep.txt").unlink()
    (found,) = volume.json("deleted", str(volume.tree), "--name", "*.txt")
    assert found["path"] == "sub/deep.txt"
    volume.run("restore", volume.path(found["path"]), "--at", found["restore_at"])
    assert (volume.tree / "sub" / "deep.txt").read_text() == "deep\n"


def test_a_mark_is_a_point_with_a_name(volume: ProtectedTree) -> None:
    witness = volume.top / "order"
    volume.run(
        "mark",
        "before-upgrade",
        str(volume.tree),
        "--pre",
        f"echo pre >> {witness}",
        "--post",
        f"echo post >> {witness}",
    )
    assert witness.read_text() == "pre\npost\n"
    (point,) = volume.json("points", str(volume.tree), "--grade", "mark")
    assert point["name"] == "before-upgrade"
    (volume.tree / "plan.txt").write_text("upgraded")
    done = volume.run("cat", volume.path("plan.txt"), "--at", "@mark:before-upgrade")
    assert done.stdout == b"first\n"


def test_a_failed_pre_command_means_no_mark_but_the_post_command_runs(
    volume: ProtectedTree,
) -> None:
    witness = volume.top / "post"
    volume.run(
        "mark",
        "m",
        str(volume.tree),
        "--pre",
        "false",
        "--post",
        f"touch {witness}",
        code=ExitCode.HOOK,
    )
    assert witness.exists()
    assert volume.json("points", str(volume.tree), "--grade", "mark") == []


def test_moments_that_are_none_are_refused(volume: ProtectedTree) -> None:
    for moment in ("@2001-01-01", "@2190-01-01", "@lsn:999999999", "@mark:none", "@nonsense"):
        volume.run("cat", volume.path("plan.txt"), "--at", moment, code=ExitCode.NO_MOMENT)


def test_a_path_that_was_not_there_is_refused(volume: ProtectedTree) -> None:
    volume.run("cat", volume.path("nothing"), "--at", "@now", code=ExitCode.NO_PATH)
    volume.run("restore", volume.path("nothing"), "--at", "@now", code=ExitCode.NO_PATH)


def test_a_store_is_read_with_nothing_mounted(volume: ProtectedTree) -> None:
    before = volume.now()
    (volume.tree / "plan.txt").write_text("second")
    store = volume.json("status", str(volume.tree))["store"]
    volume.run("cat", volume.path("sub/deep.txt"), "--at", before)
    volume.run("umount", str(volume.tree))
    assert not volume.is_mounted
    assert (volume.tree / "plan.txt").read_text() == "second"
    assert volume.json("status", "--store", store)["state"] == "unmounted"
    place = volume.top / "out"
    volume.run("restore", "plan.txt", "--at", before, "--store", store, "--to", str(place))
    assert place.read_text() == "first\n"
    volume.run("restore", volume.path("plan.txt"), "--at", before, code=ExitCode.UNREACHABLE)
    volume.run("mount", str(volume.tree))
    assert volume.is_mounted


def test_unmounting_is_refused_while_somebody_works_in_it(volume: ProtectedTree) -> None:
    with open(volume.tree / "plan.txt") as file:
        refusal = volume.run("umount", str(volume.tree), code=ExitCode.BUSY)
        assert str(os.getpid()) in refusal.stderr.decode()
        assert file.read() == "first\n"
    volume.run("umount", str(volume.tree))
    volume.run("umount", str(volume.tree), code=ExitCode.UNREACHABLE)


def test_what_is_protected_can_not_be_protected_twice(volume: ProtectedTree) -> None:
    volume.run("protect", str(volume.tree), code=ExitCode.BUSY)
    volume.run("mount", str(volume.tree), code=ExitCode.BUSY)
    other = str(volume.top / "other-store")
    volume.run("protect", str(volume.tree), "--store", other, code=ExitCode.BUSY)
    volume.run("protect", volume.path("sub"), code=ExitCode.BUSY)
    volume.run("protect", str(volume.top), code=ExitCode.BUSY)
    assert not os.path.exists(other)


def test_a_killed_daemon_is_brought_back_by_mount(volume: ProtectedTree) -> None:
    (volume.tree / "plan.txt").write_text("written before the kill")
    before = volume.json("status", str(volume.tree))
    os.kill(before["pids"]["fsd"], signal.SIGKILL)
    os.kill(before["pids"]["indexer"], signal.SIGKILL)
    volume.run("mount", str(volume.tree))
    assert (volume.tree / "plan.txt").read_text() == "written before the kill"
    done = volume.run("cat", volume.path("plan.txt"), "--at", f"@lsn:{before['lsn']}")
    assert done.stdout == b"written before the kill"


def test_a_dead_mount_is_taken_away_by_umount(volume: ProtectedTree) -> None:
    os.kill(volume.json("status", str(volume.tree))["pids"]["fsd"], signal.SIGKILL)
    volume.run("umount", str(volume.tree))
    assert not volume.is_mounted
    assert (volume.tree / "plan.txt").read_text() == "first\n"


def test_the_foreground_daemon_ends_in_order_on_sigterm(volume: ProtectedTree) -> None:
    volume.run("umount", str(volume.tree))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "console", "mount", "--foreground", str(volume.tree)],
        env=volume.environment,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"mounted at" in line:
                break
        assert volume.json("status", str(volume.tree))["pids"]["fsd"] == process.pid
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 0
    assert not volume.is_mounted


def test_systemd_is_told_when_the_mount_answers(volume: ProtectedTree) -> None:
    volume.run("umount", str(volume.tree))
    address = str(volume.top / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "console", "mount", "--foreground", str(volume.tree)],
            env=volume.environment | {"NOTIFY_SOCKET": address},
            stderr=subprocess.DEVNULL,
        )
        with process:
            assert supervisor.recv(100) == b"READY=1"
            assert volume.is_mounted
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_doctor_finds_a_healthy_volume_healthy(volume: ProtectedTree) -> None:
    findings = volume.json("doctor", str(volume.tree))
    assert {finding["level"] for finding in findings} <= {"ok", "warn"}
    assert {"mount", "indexer", "journal"} <= {finding["check"] for finding in findings}


def test_verify_and_reindex_agree_with_a_healthy_store(volume: ProtectedTree) -> None:
    moment = volume.now()
    (volume.tree / "plan.txt").write_text("second")
    volume.run("verify", str(volume.tree))
    volume.run("reindex", str(volume.tree), code=ExitCode.BUSY)
    volume.run("umount", str(volume.tree))
    volume.run("reindex", str(volume.tree))
    volume.run("verify", str(volume.tree))
    volume.run("mount", str(volume.tree))
    assert volume.run("cat", volume.path("plan.txt"), "--at", moment).stdout == b"first\n"


def test_damage_is_found_and_has_its_exit_code(volume: ProtectedTree) -> None:
    (volume.tree / "plan.txt").write_bytes(os.urandom(1 << 20))
    volume.run("umount", str(volume.tree))
    store = Path(volume.json("status", str(volume.tree))["store"])
    segment = next((store / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    volume.run("verify", str(volume.tree), code=ExitCode.DAMAGE)
