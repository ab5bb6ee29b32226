"""Every exception of the project ends in a message, a next step and a documented exit code."""

import errno
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import fsd.errors
import store.errors
import timetravel.errors
from console.errors import ConsoleError, DaemonError, NotMounted
from console.exit_codes import ExitCode
from console.failures import code_of_class, explain, report
from timetravel.moment import parse_moment

ROOT = Path(__file__).resolve().parents[2]


def exception_classes(module: ModuleType) -> list[type[Exception]]:
    return [
        member
        for _name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Exception) and member.__module__ == module.__name__
    ]


@pytest.mark.parametrize("module", [store.errors, timetravel.errors, fsd.errors])
def test_every_class_of_the_error_trees_has_an_exit_code(module: ModuleType) -> None:
    for kind in exception_classes(module):
        assert code_of_class(kind) in ExitCode, kind


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (store.errors.NoSuchVolume, ExitCode.NO_VOLUME),
        (store.errors.IntakeGap, ExitCode.DAMAGE),
        (store.errors.UnsupportedFormat, ExitCode.FORMAT),
        (store.errors.StoreFull, ExitCode.SPACE),
        (timetravel.errors.MomentInFuture, ExitCode.NO_MOMENT),
        (timetravel.errors.NoSuchPath, ExitCode.NO_PATH),
        (timetravel.errors.NotADirectory, ExitCode.NO_PATH),
        (fsd.errors.NotADirectory, ExitCode.USAGE),
        (fsd.errors.NestedMount, ExitCode.USAGE),
        (fsd.errors.NoFuse, ExitCode.ENVIRONMENT),
        (fsd.errors.AlreadyMounted, ExitCode.BUSY),
    ],
)
def test_exit_codes_of_what_people_meet(kind: type[Exception], code: ExitCode) -> None:
    assert code_of_class(kind) is code


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("busy", ExitCode.BUSY),
        ("MountBusy", ExitCode.BUSY),
        ("no_fuse", ExitCode.ENVIRONMENT),
        ("NotADirectory", ExitCode.USAGE),
        ("DamagedError", ExitCode.DAMAGE),
        ("something new", ExitCode.FAILURE),
    ],
)
def test_the_daemons_words_for_errors_have_the_codes_of_its_classes(
    word: str, code: ExitCode
) -> None:
    failure = explain(DaemonError("no", "do this", kind=word))
    assert (failure.code, failure.message, failure.hints) == (code, "no", ("do this",))


def test_a_moment_that_is_none_says_how_to_write_one() -> None:
    with pytest.raises(timetravel.errors.MomentError) as caught:
        parse_moment("@25:99", now_ns=1_800_000_000 * 10**9, zone="UTC")
    failure = explain(caught.value)
    assert failure.code is ExitCode.NO_MOMENT
    assert failure.hints


def test_errors_of_the_console_carry_their_own_code() -> None:
    assert explain(NotMounted("gone")).code is ExitCode.UNREACHABLE
    assert explain(ConsoleError("odd", code=ExitCode.BUSY)).code is ExitCode.BUSY


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ExitCode.SPACE),
        (errno.EROFS, ExitCode.SPACE),
        (errno.EACCES, ExitCode.PERMISSION),
        (errno.ENOTCONN, ExitCode.UNREACHABLE),
        (errno.EIO, ExitCode.FAILURE),
    ],
)
def test_system_errors_name_the_file(number: int, code: ExitCode) -> None:
    failure = explain(OSError(number, "reason", "/some/where"))
    assert failure.code is code
    assert failure.message == "/some/where: reason"


def test_an_unforeseen_error_leaves_its_traceback_in_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        failure = explain(error)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert "ZeroDivisionError: a bug" in file.read_text()
    assert str(file) in failure.hints[0]
    assert failure.code is ExitCode.FAILURE
    assert "Traceback" not in failure.message


def test_a_report_goes_to_stderr_with_every_hint_on_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(explain(ConsoleError("it is broken", "mend it", "or\nleave it")))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("cdpfs: it is broken\n  next: mend it\n  next: or\n  next: leave it\n")


def test_the_manual_lists_every_exit_code_with_its_meaning() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", text, re.MULTILINE))
    assert listed == {str(int(code)): code.meaning for code in ExitCode}
