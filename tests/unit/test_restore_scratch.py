"""The folder of a restore from tape: gone at its end, and what a killed one left with the next."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.errors import ConsoleError
from console.exit_codes import ExitCode
from console.restore_scratch import PREFIX, restore_scratch

RESTORING = """
import sys
from pathlib import Path
from console.restore_scratch import restore_scratch
with restore_scratch(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "store").mkdir()
    print("there", flush=True)
    sys.stdin.read()
"""


def left(top: Path) -> list[str]:
    return [name for name in os.listdir(top) if name.startswith(PREFIX)]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the middle of a restore to `out`."""
    with subprocess.Popen(
        [sys.executable, "-c", RESTORING, str(tmp_path), str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield process
        process.kill()


def test_nothing_is_left_of_a_restore_that_ends_or_fails(tmp_path: Path) -> None:
    with restore_scratch(tmp_path / "new", str(tmp_path / "out")) as folder:
        (folder / "store").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        restore_scratch(tmp_path / "new", str(tmp_path / "out")) as folder,
    ):
        (folder / "store").mkdir()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path / "new") == []


def test_what_a_killed_restore_left_goes_with_the_next_one_to_the_same_place(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    other.kill()
    other.wait()
    assert len(left(tmp_path)) == 1
    with restore_scratch(tmp_path, str(tmp_path / "elsewhere")):
        assert len(left(tmp_path)) == 2
    assert len(left(tmp_path)) == 1, "it may be wanted again there"
    with restore_scratch(tmp_path, str(tmp_path / "out")) as folder:
        assert os.listdir(folder) == []
    assert left(tmp_path) == []


def test_what_a_running_restore_has_is_not_touched(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    assert other.poll() is None
    with (
        pytest.raises(ConsoleError, match="another restore") as caught,
        restore_scratch(tmp_path, str(tmp_path / "out")),
    ):
        pass
    assert caught.value.code == ExitCode.BUSY
    (name,) = left(tmp_path)
    assert (tmp_path / name / "work" / "store").is_dir()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    with restore_scratch(tmp_path, str(tmp_path / "out")):
        (name,) = left(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / name).symlink_to("precious")
    with (
        pytest.raises(ConsoleError, match="somebody else") as caught,
        restore_scratch(tmp_path, str(tmp_path / "out")),
    ):
        pass
    assert caught.value.code == ExitCode.PERMISSION
    assert os.listdir(tmp_path / "precious") == []
